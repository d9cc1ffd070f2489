%% supervisor: what is restarted with what, tries that fail, and signals that are not its business.
-module(oracle_restarts).
-export([cases/0, trying/2]).
-import(oracle, [role/2, next/0, rest/0, quiet/0, caught/1, collect/1, down/1, watch/1, died/1,
                 is_gone/1]).
-import(oracle_supervisor, [spec/1, spec/2, start/2, start/3, started/1, pid_of/2, fell/3, alive/1,
                            seen/3]).

%% A child that is started as often as `Keeper` says: it starts for `yes`.
trying(To, Keeper) ->
    Keeper ! {may_i, self()},
    receive yes -> oracle_supervisor:child(To, a, false); no -> To ! tried, {error, no_luck} end.

keeper(Answers) ->
    spawn(fun() -> [receive {may_i, From} -> From ! Answer end || Answer <- Answers] end).

tried(Strategy, Answers, More) ->
    Child = #{id => a, start => {?MODULE, trying, [self(), keeper(Answers)]}},
    start(Strategy, 3, [Child | More]).

first({started, Id, _}) -> {started, Id};
first(Other) -> Other.

cases() -> [
    {"a_temporary_sibling_is_not_restarted", fun() ->
        Sup = start(one_for_all, [spec(a), spec(b, #{restart => temporary}), spec(c)]), started(3),
        fell(Sup, a, boom), {started(2), quiet(), alive(Sup)}
    end},
    {"a_sibling_that_ended_is_started_again", fun() ->
        Sup = start(one_for_all, [spec(a), spec(b, #{restart => transient})]), started(2),
        Before = pid_of(Sup, b), fell(Sup, b, normal), seen(Sup, b, Before), None = alive(Sup),
        fell(Sup, a, boom), {None, started(2), alive(Sup)}
    end},
    {"a_sibling_that_was_terminated_is_started_again", fun() ->
        Sup = start(one_for_all, [spec(a), spec(b)]), started(2), supervisor:terminate_child(Sup, b),
        fell(Sup, a, boom), {started(2), alive(Sup)}
    end},
    {"a_terminated_child_stays_down_under_one_for_one", fun() ->
        Sup = start(one_for_one, [spec(a), spec(b)]), started(2), supervisor:terminate_child(Sup, b),
        fell(Sup, a, boom), {started(1), quiet(), alive(Sup)}
    end},
    {"a_restart_that_fails_is_tried_again", fun() ->
        Sup = tried(one_for_one, [yes, no, yes], []), started(1), fell(Sup, a, boom),
        [first(Each) || Each <- collect(2)]
    end},
    {"a_restart_that_fails_too_often_ends_the_supervisor", fun() ->
        process_flag(trap_exit, true),
        Sup = role(tried(one_for_one, [yes, no, no, no, no], [spec(b, #{traps => true})]), supervisor),
        started(2), fell(Sup, a, boom), collect(5)
    end},
    {"a_restart_of_all_that_fails_is_tried_again", fun() ->
        Sup = tried(one_for_all, [yes, no, yes], [spec(b)]), started(2), fell(Sup, b, boom),
        [first(Each) || Each <- collect(3)]
    end},
    {"restarts_are_forgotten_after_the_period", fun() ->
        Flags = #{strategy => one_for_one, intensity => 1, period => 1},
        {ok, Sup} = supervisor:start_link(oracle_supervisor, {Flags, [spec(a)]}), started(1),
        fell(Sup, a, boom), started(1), nothing = quiet(2100), fell(Sup, a, boom),
        {started(1), is_process_alive(Sup)}
    end},
    {"an_exit_signal_of_a_stranger_is_ignored", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1),
        spawn(fun() -> exit(Sup, boom) end), nothing = quiet(), alive(Sup)
    end},
    {"a_message_of_a_stranger_is_ignored", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1), Sup ! what_is_this, alive(Sup)
    end},
    {"the_parents_normal_end_ends_a_supervisor", fun() ->
        Self = self(), Spec = spec(a, #{traps => true}),
        normal = died(fun() ->
            {ok, Sup} = supervisor:start_link(oracle_supervisor, {#{}, [Spec]}), Self ! {sup, Sup}
        end),
        started(1), {sup, Sup} = next(), {next(), is_gone(Sup)}
    end},
    {"children_of_a_killed_supervisor_end", fun() ->
        process_flag(trap_exit, true),
        Sup = start(one_for_one, [spec(a)]), started(1), Ref = watch(pid_of(Sup, a)),
        exit(Sup, kill), {down(Ref), reason_of(next())}
    end},
    {"a_killed_supervisor_does_not_wait", fun() ->
        process_flag(trap_exit, true),
        Sup = start(one_for_one, [spec(a, #{traps => true})]), started(1),
        exit(Sup, kill), lists:sort([case Each of {ended, _, Why} -> {ended, Why};
                                              {'EXIT', _, Why} -> {exit, Why} end || Each <- collect(2)])
    end},
    {"stop_a_supervisor", fun() ->
        process_flag(trap_exit, true),
        Sup = role(start(one_for_one, [spec(Id, #{traps => true}) || Id <- [a, b]]), supervisor),
        started(2), Gave = gen_server:stop(Sup), {Gave, collect(3)}
    end},
    {"a_temporary_id_is_free_after_its_end", fun() ->
        Sup = start(one_for_one, []), Spec = spec(a, #{restart => temporary}),
        {ok, First} = supervisor:start_child(Sup, Spec), started(1), fell(Sup, a, boom),
        seen(Sup, a, First), {ok, Second} = supervisor:start_child(Sup, Spec),
        {started(1), First =:= Second}
    end},
    {"restart_a_transient_child_that_ended", fun() ->
        Sup = start(one_for_one, [spec(a, #{restart => transient})]), started(1),
        Before = pid_of(Sup, a), fell(Sup, a, normal), seen(Sup, a, Before),
        {ok, _} = supervisor:restart_child(Sup, a), {started(1), alive(Sup)}
    end},
    {"start_child_of_one_that_ignores", fun() ->
        Sup = start(one_for_one, []),
        Gave = supervisor:start_child(Sup, #{id => idle,
                                             start => {oracle_supervisor, ignoring, [self()]}}),
        {Gave, next(), pid_of(Sup, idle)}
    end},
    {"start_child_that_was_terminated", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1), supervisor:terminate_child(Sup, a),
        supervisor:start_child(Sup, spec(a))
    end},
    {"shutdown_infinity", fun() ->
        Sup = start(one_for_one, [spec(a, #{shutdown => infinity, traps => true})]), started(1),
        {supervisor:terminate_child(Sup, a), next()}
    end},
    {"a_supervisor_with_a_name", fun() ->
        {ok, Sup} = supervisor:start_link({local, sup_name}, oracle_supervisor, {#{}, [spec(a)]}),
        started(1), {whereis(sup_name) =:= Sup, alive(sup_name)}
    end},
    {"calls_of_what_is_no_supervisor", fun() ->
        {exit, {Reason, _}} = caught(fun() -> supervisor:which_children(oracle:dead()) end), Reason
    end}
].

reason_of({'EXIT', _, Reason}) -> Reason.
quiet(Ms) -> oracle:quiet(Ms).
