%% Links, exit signals and what traps them.
-module(oracle_signals).
-export([cases/0]).
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, caught/1, collect/1, died/1,
                 down/1, reason/1, answering/0, ask/2, watch/1]).

trap() -> process_flag(trap_exit, true).

%% A process that traps exits and sends what it gets to `To`.
trapping(To) ->
    Self = self(),
    Pid = spawn(fun() -> trap(), Self ! {ready, self()}, forward(To) end),
    receive {ready, Pid} -> Pid end.

forward(To) -> receive Message -> To ! Message, forward(To) end.

%% Two linked processes, neither traps exits; both are monitored.
couple() ->
    Self = self(),
    Left = spawn(fun() ->
        Right = spawn_link(fun obeys/0),
        Self ! {right, Right},
        obeys()
    end),
    Right = receive {right, Pid} -> Pid end,
    role(Left, left), role(Right, right),
    {Left, watch(Left), Right, watch(Right)}.

obeys() -> receive {run, Fun} -> Fun(), obeys() end.

cases() -> [
    {"link_normal_end_spares_the_other", fun() ->
        {Left, LeftRef, Right, RightRef} = couple(),
        Right ! {run, fun() -> exit(normal) end},
        Reason = down(RightRef),
        Self = self(),
        Left ! {run, fun() -> Self ! still_here end},
        Said = next(), exit(Left, kill), down(LeftRef),
        {Reason, Said}
    end},
    {"link_error_takes_the_other", fun() ->
        {_, LeftRef, Right, RightRef} = couple(),
        Right ! {run, fun() -> exit(boom) end},
        {down(LeftRef), down(RightRef)}
    end},
    {"link_error_takes_the_other_way", fun() ->
        {Left, LeftRef, _, RightRef} = couple(),
        Left ! {run, fun() -> exit(boom) end},
        {down(LeftRef), down(RightRef)}
    end},
    {"link_shutdown_takes_the_other", fun() ->
        {_, LeftRef, Right, RightRef} = couple(),
        Right ! {run, fun() -> exit(shutdown) end},
        {down(LeftRef), down(RightRef)}
    end},
    {"link_chain_of_four", fun() ->
        Self = self(),
        spawn(fun() ->
            A = self(),
            B = spawn_link(fun() ->
                C = spawn_link(fun() ->
                    D = spawn_link(fun obeys/0),
                    Self ! {cd, self(), D}, obeys()
                end),
                Self ! {b, self()}, _ = C, obeys()
            end),
            Self ! {a, A}, _ = B, obeys()
        end),
        A = receive {a, P1} -> P1 end,
        B = receive {b, P2} -> P2 end,
        {C, D} = receive {cd, P3, P4} -> {P3, P4} end,
        Refs = [watch(P) || P <- [A, B, C, D]],
        D ! {run, fun() -> exit(boom) end},
        [down(Ref) || Ref <- Refs]
    end},
    {"link_to_the_dead_when_trapping", fun() ->
        trap(), Pid = role(dead(), child), {link(Pid), next()}
    end},
    {"link_to_the_dead_ends_the_caller", fun() ->
        Pid = dead(), died(fun() -> link(Pid), receive never -> ok end end)
    end},
    {"link_twice_is_one_link", fun() ->
        trap(), Pid = role(answering(), child), link(Pid), link(Pid), exit(Pid, boom),
        {next(), quiet()}
    end},
    {"link_twice_unlink_once", fun() ->
        trap(), Pid = answering(), link(Pid), link(Pid), unlink(Pid), exit(Pid, boom),
        down(watch(Pid)), quiet()
    end},
    {"link_gives_true", fun() -> Pid = answering(), {link(Pid), unlink(Pid)} end},
    {"link_oneself", fun() -> {link(self()), still_here} end},
    {"unlink_then_exit", fun() ->
        trap(), Pid = answering(), link(Pid), unlink(Pid), exit(Pid, boom),
        down(watch(Pid)), quiet()
    end},
    {"unlink_what_is_not_linked", fun() -> unlink(answering()) end},
    {"unlink_counts_for_both", fun() ->
        Pid = answering(),
        boom = died(fun() -> link(Pid), unlink(Pid), exit(boom) end),
        ask(Pid, still_here)
    end},
    {"trap_exit_gives_what_was", fun() ->
        [process_flag(trap_exit, Flag) || Flag <- [true, true, false, false]]
    end},
    {"trapped_normal", fun() ->
        trap(), role(spawn_link(fun() -> ok end), child), next()
    end},
    {"trapped_error", fun() ->
        trap(), role(spawn_link(fun() -> exit({bad, thing}) end), child), next()
    end},
    {"trapped_end_is_not_trapped_for_others", fun() ->
        Self = self(), Trapping = role(trapping(Self), child),
        Ref = watch(Trapping), exit(Trapping, boom),
        Message = next(), exit(Trapping, kill),
        {Message, down(Ref)}
    end},
    {"trap_exit_off_again", fun() ->
        died(fun() -> trap(), process_flag(trap_exit, false),
                      spawn_link(fun() -> exit(boom) end), receive never -> ok end end)
    end},
    {"exit_kill_inside_is_seen_as_kill", fun() ->
        trap(), role(spawn_link(fun() -> exit(kill) end), child), next()
    end},
    {"exit_kill_inside_takes_a_linked_process", fun() ->
        {_, LeftRef, Right, RightRef} = couple(),
        Right ! {run, fun() -> exit(kill) end},
        {down(LeftRef), down(RightRef)}
    end},
    {"exit_sent_normal_is_ignored", fun() ->
        Pid = answering(), Gave = exit(Pid, normal), {Gave, ask(Pid, still_here)}
    end},
    {"exit_sent_normal_is_trapped", fun() ->
        Pid = trapping(self()), exit(Pid, normal), next()
    end},
    {"exit_sent_normal_to_oneself", fun() ->
        died(fun() -> exit(self(), normal), receive never -> ok end end)
    end},
    {"exit_sent_to_oneself", fun() ->
        died(fun() -> exit(self(), boom), receive never -> ok end end)
    end},
    {"exit_sent_to_oneself_ends_at_once", fun() ->
        Self = self(),
        {died(fun() -> exit(self(), boom), Self ! not_reached end), quiet()}
    end},
    {"exit_sent_to_oneself_trapped", fun() ->
        trap(), exit(self(), boom), exit(self(), normal), collect(2)
    end},
    {"exit_sent_kill_to_oneself", fun() ->
        died(fun() -> trap(), exit(self(), kill), receive never -> ok end end)
    end},
    {"exit_sent", fun() ->
        Pid = answering(), Ref = watch(Pid), exit(Pid, boom), down(Ref)
    end},
    {"exit_sent_is_trapped", fun() ->
        Pid = trapping(self()), exit(Pid, boom), next()
    end},
    {"exit_sent_to_the_dead", fun() -> exit(dead(), boom) end},
    {"exit_sent_kill", fun() ->
        Pid = answering(), Ref = watch(Pid), exit(Pid, kill), down(Ref)
    end},
    {"exit_sent_kill_cannot_be_trapped", fun() ->
        Pid = trapping(self()), Ref = watch(Pid), exit(Pid, kill), {down(Ref), quiet()}
    end},
    {"exit_sent_kill_is_seen_as_killed", fun() ->
        trap(), Pid = role(spawn_link(fun obeys/0), child), exit(Pid, kill), next()
    end},
    {"exit_sent_kill_takes_a_linked_process", fun() ->
        {_, LeftRef, Right, RightRef} = couple(),
        exit(Right, kill),
        {down(LeftRef), down(RightRef)}
    end},
    {"exit_sent_shutdown", fun() ->
        Pid = answering(), Ref = watch(Pid), exit(Pid, shutdown), down(Ref)
    end},
    {"exit_sent_without_a_link", fun() ->
        Self = self(),
        Pid = role(trapping(Self), child),
        Sender = role(spawn(fun() -> exit(Pid, boom) end), sender), _ = Sender,
        next()
    end},
    {"signals_of_one_sender_keep_their_order", fun() ->
        Pid = trapping(self()), Pid ! one, exit(Pid, boom), Pid ! two, exit(Pid, bang), Pid ! three,
        collect(5)
    end},
    {"an_exit_can_be_caught", fun() ->
        died(fun() -> {exit, boom} = caught(fun() -> exit(boom) end), exit(went_on) end)
    end},
    {"exit_normal_inside_ends_at_once", fun() ->
        Self = self(), End = fun(Reason) -> exit(Reason) end,
        {died(fun() -> End(normal), Self ! not_reached end), quiet()}
    end},
    {"clean_up_after_exit", fun() ->
        Self = self(),
        died(fun() -> try exit(boom) after Self ! cleaned end end),
        next()
    end},
    {"clean_up_after_a_signal", fun() ->
        Self = self(),
        Pid = spawn(fun() ->
            try Self ! ready, receive never -> ok end after Self ! cleaned end
        end),
        ready = next(), exit(Pid, boom), down(watch(Pid)), quiet()
    end},
    {"unlink_leaves_an_exit_that_came", fun() ->
        trap(), Pid = role(spawn_link(fun() -> exit(boom) end), child), down(watch(Pid)),
        unlink(Pid), next()
    end},
    {"an_exit_in_the_clean_up_is_the_reason", fun() ->
        died(fun() -> try exit(boom) after exit(worse) end end)
    end},
    {"exit_with_a_pid_and_a_ref_as_reason", fun() ->
        died(fun() -> exit({[self()], make_ref(), #{1 => 2.5}}) end)
    end},
    {"exit_sent_with_kill_to_who_ends_already", fun() ->
        Pid = spawn(fun() -> receive never -> ok end end), Ref = watch(Pid),
        exit(Pid, boom), exit(Pid, kill), down(Ref)
    end},
    {"who_traps_does_not_end_by_its_childs_kill", fun() ->
        trap(), Pid = role(spawn_link(fun() -> receive never -> ok end end), child),
        exit(Pid, kill), {next(), quiet()}
    end},
    {"a_link_of_two_who_trap", fun() ->
        Self = self(), Right = role(trapping(Self), right),
        died(fun() -> link(Right), exit(boom) end),
        {'EXIT', _, Reason} = next(), {Reason, is_process_alive(Right)}
    end},
    {"what_waited_is_lost_with_the_process", fun() ->
        Self = self(),
        Pid = spawn(fun() -> receive go -> ok end, receive {say, What} -> Self ! What end end),
        Pid ! {say, hello}, exit(Pid, boom), Pid ! go, down(watch(Pid)), quiet()
    end},
    {"a_parent_that_ends_leaves_its_children", fun() ->
        Self = self(),
        normal = died(fun() -> Self ! {child, answering()} end),
        {child, Child} = next(),
        ask(Child, still_here)
    end}
].
