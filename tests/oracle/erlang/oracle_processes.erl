%% Spawning, names and what can be asked about processes.
-module(oracle_processes).
-export([cases/0]).
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, caught/1, collect/1, died/1,
                 down/1, reason/1, answering/0, ask/2, watch/1]).

cases() -> [
    {"spawn_gives_the_pid_of_the_child", fun() ->
        Self = self(),
        Pid = spawn(fun() -> Self ! {i_am, self()} end),
        {i_am, Child} = next(),
        {Child =:= Pid, Child =:= Self}
    end},
    {"spawn_with_arguments", fun() ->
        spawn(erlang, send, [self(), {one, two}]), next()
    end},
    {"the_value_of_a_process_is_lost", fun() -> died(fun() -> some_value end) end},
    {"spawn_monitor_normal", fun() ->
        {Pid, Ref} = spawn_monitor(fun() -> ok end), role(Pid, child),
        {'DOWN', Ref, process, Who, Reason} = next(),
        {Who, Reason, rest()}
    end},
    {"spawn_monitor_exit", fun() -> died(fun() -> exit(boom) end) end},
    {"spawn_monitor_exit_with_a_tuple", fun() -> died(fun() -> exit({shutdown, [1, <<"two">>]}) end) end},
    {"spawn_link_normal", fun() ->
        process_flag(trap_exit, true),
        Pid = spawn_link(fun() -> ok end), role(Pid, child),
        next()
    end},
    {"spawn_link_exit", fun() ->
        process_flag(trap_exit, true),
        Pid = spawn_link(fun() -> exit(boom) end), role(Pid, child),
        next()
    end},
    {"an_uncaught_error", fun() -> died(fun() -> error(bad) end) end},
    {"an_uncaught_throw", fun() -> died(fun() -> throw(bad) end) end},
    {"an_error_of_the_language", fun() -> died(fun() -> binary_to_integer(next_of([<<"x">>])) end) end},
    {"messages_come_before_down", fun() ->
        Self = self(),
        {Pid, _} = spawn_monitor(fun() -> Self ! one, Self ! two, exit(boom) end),
        role(Pid, child),
        [one, two, {'DOWN', _, process, Who, Reason}] = collect(3),
        {Who, Reason}
    end},
    {"whether_a_process_is_alive", fun() ->
        Pid = answering(),
        Before = is_process_alive(Pid),
        exit(Pid, kill), down(watch(Pid)),
        {Before, is_process_alive(Pid), is_process_alive(self())}
    end},
    {"the_mailbox_is_counted", fun() ->
        [self() ! N || N <- [1, 2, 3]], element(2, process_info(self(), message_queue_len))
    end},
    {"process_info_of_the_dead", fun() -> process_info(dead()) end},
    {"process_info_names_links_and_traps", fun() ->
        process_flag(trap_exit, true), register(informed, self()),
        Pid = spawn_link(fun() -> receive stop -> ok end end), role(Pid, child),
        {_, Name} = process_info(self(), registered_name),
        {_, Links} = process_info(self(), links),
        {_, Traps} = process_info(self(), trap_exit),
        {Name, Links, Traps}
    end},
    {"the_mailbox_has_a_limit", fun() ->
        Pid = spawn(fun() -> receive never -> ok end end),
        [Pid ! N || N <- lists:seq(1, 10001)],
        element(2, process_info(Pid, message_queue_len))
    end},
    {"a_process_that_computes_lets_others_run", fun computing/0},
    {"a_process_that_computes_in_a_thread", fun computing/0},
    {"node_of_a_pid", fun() -> {node(self()) =:= node(), node(make_ref()) =:= node()} end},
    {"register_and_whereis", fun() ->
        Gave = register(here, self()), {Gave, whereis(here), lists:member(here, registered())}
    end},
    {"whereis_of_an_unknown_name", fun() -> whereis(no_such_name) end},
    {"register_another_process", fun() ->
        Pid = role(answering(), child), register(another, Pid), {whereis(another), ask(another, ok)}
    end},
    {"register_a_name_that_is_taken", fun() ->
        register(taken, answering()), caught(fun() -> register(taken, self()) end)
    end},
    {"register_the_same_again", fun() ->
        register(again, self()), caught(fun() -> register(again, self()) end)
    end},
    {"register_a_second_name", fun() ->
        register(one_name, self()), caught(fun() -> register(two_name, self()) end)
    end},
    {"register_the_dead", fun() -> caught(fun() -> register(dead_name, dead()) end) end},
    {"unregister_a_name", fun() ->
        register(there, self()), Gave = unregister(there),
        {Gave, whereis(there), lists:member(there, registered())}
    end},
    {"unregister_an_unknown_name", fun() -> caught(fun() -> unregister(no_such_name) end) end},
    {"unregister_the_name_of_another", fun() ->
        register(others, answering()), unregister(others), whereis(others)
    end},
    {"a_name_is_free_when_down_comes", fun() ->
        {_, Ref} = spawn_monitor(fun() -> register(mortal, self()), exit(boom) end),
        boom = down(Ref),
        whereis(mortal)
    end},
    {"a_name_is_free_when_exit_comes", fun() ->
        process_flag(trap_exit, true),
        spawn_link(fun() -> register(mortal_link, self()), exit(boom) end),
        {'EXIT', _, boom} = next(),
        whereis(mortal_link)
    end},
    {"a_name_can_be_taken_after_down", fun() ->
        {_, Ref} = spawn_monitor(fun() -> register(heir, self()) end),
        normal = down(Ref),
        register(heir, self()), whereis(heir)
    end},
    {"a_name_moves_to_another", fun() ->
        First = role(answering(), first), Second = role(answering(), second),
        register(moving, First), Before = whereis(moving),
        unregister(moving), register(moving, Second),
        {Before, whereis(moving)}
    end},
    {"monitor_several_refs", fun() ->
        Pid = role(answering(), child),
        Refs = [watch(Pid) || _ <- [1, 2, 3]],
        exit(Pid, boom),
        Downs = [receive {'DOWN', Ref, process, Who, Reason} -> {Who, Reason} end || Ref <- Refs],
        {length(lists:usort(Refs)), Downs, rest()}
    end},
    {"monitor_the_dead", fun() ->
        Pid = role(dead(), child), watch(Pid), next()
    end},
    {"monitor_oneself", fun() -> watch(self()), quiet() end},
    {"monitor_is_one_way", fun() ->
        Pid = answering(),
        boom = died(fun() -> watch(Pid), exit(boom) end),
        ask(Pid, still_here)
    end},
    {"monitor_by_name", fun() ->
        Pid = answering(), register(watched, Pid), watch(watched), exit(Pid, boom), next()
    end},
    {"monitor_by_name_and_node", fun() ->
        Pid = answering(), register(watched_there, Pid),
        watch({watched_there, node()}), exit(Pid, boom), next()
    end},
    {"monitor_an_unknown_name", fun() -> watch(no_such_name), next() end},
    {"monitor_by_name_stays_with_the_process", fun() ->
        Pid = answering(), register(passing, Pid), watch(passing),
        unregister(passing), register(passing, answering()),
        exit(Pid, boom), next()
    end},
    {"demonitor_in_time", fun() ->
        Pid = answering(), Ref = watch(Pid), Gave = demonitor(Ref),
        exit(Pid, boom), down(watch(Pid)),
        {Gave, quiet()}
    end},
    {"demonitor_leaves_a_down_that_came", fun() ->
        Pid = role(dead(), child), Ref = watch(Pid), Probe = watch(Pid),
        receive {'DOWN', Probe, process, _, _} -> ok end,
        demonitor(Ref), next()
    end},
    {"demonitor_flush_takes_a_down_that_came", fun() ->
        Pid = dead(), Ref = watch(Pid), Probe = watch(Pid),
        receive {'DOWN', Probe, process, _, _} -> ok end,
        {demonitor(Ref, [flush]), quiet()}
    end},
    {"demonitor_twice", fun() ->
        Ref = watch(answering()), demonitor(Ref), demonitor(Ref)
    end},
    {"demonitor_one_of_two", fun() ->
        Pid = role(answering(), child), First = watch(Pid), Second = watch(Pid), demonitor(First),
        exit(Pid, boom),
        {'DOWN', Second, process, Who, Reason} = next(),
        {Who, Reason, quiet()}
    end},
    {"down_comes_once", fun() ->
        Pid = role(answering(), child), watch(Pid), exit(Pid, boom), exit(Pid, bang),
        {next(), quiet()}
    end},
    {"link_and_monitor_tell_both", fun() ->
        process_flag(trap_exit, true),
        Pid = role(answering(), child), link(Pid), watch(Pid), exit(Pid, boom),
        lists:sort(collect(2))
    end}
].

%% Who is first: one that computes for 300 ms, or one that it woke before.
computing() ->
    Self = self(),
    Quick = spawn(fun() -> receive go -> Self ! quick end end),
    spawn(fun() -> Quick ! go, busy(erlang:monotonic_time(millisecond) + 300), Self ! computed end),
    collect(2).

busy(Until) -> case erlang:monotonic_time(millisecond) < Until of true -> busy(Until); _ -> ok end.

next_of([Next | _]) -> Next.
