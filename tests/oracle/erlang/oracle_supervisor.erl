%% supervisor: strategies, kinds of children, intensity, and what can be asked of one.
-module(oracle_supervisor).
-behaviour(supervisor).
-export([cases/0, init/1, child/3, failing/1, ignoring/1, spec/1, spec/2, start/2, start/3, started/1,
         pid_of/2, fell/3, alive/1, seen/3]).
-import(oracle, [role/2, next/0, rest/0, nothing/0, quiet/0, collect/1, down/1, reason/1, watch/1,
                 died/1, is_gone/1]).

init(Spec) -> {ok, Spec}.

%% A child tells `To` when it starts, and when it ends in an orderly way, if it traps exits.
child(To, Id, Traps) ->
    Self = self(),
    Pid = spawn_link(fun() ->
        process_flag(trap_exit, Traps),
        To ! {started, Id, self()},
        Self ! {up, self()},
        living(To, Id, Self)
    end),
    receive {up, Pid} -> {ok, Pid} end.

living(To, Id, Parent) ->
    receive
        {'EXIT', Parent, Reason} -> To ! {ended, Id, Reason}, exit(Reason);
        {stop, Reason} -> exit(Reason);
        stubborn -> receive never -> ok end
    end.

failing(To) -> To ! tried, {error, no_luck}.

ignoring(To) -> To ! tried, ignore.

spec(Id) -> spec(Id, #{}).
spec(Id, More) ->
    Traps = maps:get(traps, More, false),
    maps:merge(#{id => Id, start => {?MODULE, child, [self(), Id, Traps]}}, maps:remove(traps, More)).

%% A supervisor with these children, and the messages of their starts taken away.
start(Strategy, Children) -> start(Strategy, 5, Children).
start(Strategy, Intensity, Children) ->
    Flags = #{strategy => Strategy, intensity => Intensity, period => 5},
    {ok, Sup} = supervisor:start_link(?MODULE, {Flags, Children}),
    Sup.

%% Which children start next, so many.
started(Count) -> [receive {started, Id, _} -> Id after 20000 -> none end || _ <- lists:seq(1, Count)].

pid_of(Sup, Id) ->
    {Id, Pid, _, _} = lists:keyfind(Id, 1, supervisor:which_children(Sup)), Pid.

%% End a child with a reason, and wait for that.
fell(Sup, Id, Reason) ->
    Pid = pid_of(Sup, Id), Ref = watch(Pid), Pid ! {stop, Reason}, Reason = down(Ref).

%% Who lives now, by id, in the order in which they were started.
alive(Sup) ->
    lists:reverse([Id || {Id, Pid, _, _} <- supervisor:which_children(Sup), is_pid(Pid)]).

quiet_starts() -> receive {started, Id, _} -> {unexpected, Id} after 30 -> nothing end.

cases() -> strategies() ++ kinds() ++ verbs() ++ shutdowns() ++ dynamic().

after_a_crash(Strategy, Id, Expected) ->
    Sup = start(Strategy, [spec(Each) || Each <- [a, b, c]]),
    First = started(3),
    fell(Sup, Id, boom),
    {First, started(Expected), quiet_starts(), alive(Sup)}.

strategies() -> [
    {"children_start_in_order", fun() ->
        start(one_for_one, [spec(Id) || Id <- [a, b, c]]), started(3)
    end},
    {"one_for_one_restarts_the_one", fun() -> after_a_crash(one_for_one, b, 1) end},
    {"one_for_all_restarts_all", fun() -> after_a_crash(one_for_all, b, 3) end},
    {"rest_for_one_restarts_the_rest", fun() -> after_a_crash(rest_for_one, b, 2) end},
    {"one_for_all_ends_the_others_last_first", fun() ->
        Sup = start(one_for_all, [spec(Id, #{traps => true}) || Id <- [a, b, c]]),
        started(3), fell(Sup, b, boom),
        [{ended, First, Why}, {ended, Second, _} | _] = collect(2),
        {First, Second, Why, started(3)}
    end},
    {"rest_for_one_spares_those_before", fun() ->
        Sup = start(rest_for_one, [spec(Id, #{traps => true}) || Id <- [a, b, c]]),
        started(3), Before = pid_of(Sup, a), fell(Sup, b, boom),
        {next(), started(2), pid_of(Sup, a) =:= Before}
    end},
    {"a_restarted_child_is_a_new_process", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1),
        Before = pid_of(Sup, a), fell(Sup, a, boom), started(1),
        pid_of(Sup, a) =:= Before
    end},
    {"a_child_that_does_not_start_fails_the_supervisor", fun() ->
        process_flag(trap_exit, true),
        Bad = #{id => bad, start => {?MODULE, failing, [self()]}},
        Flags = #{strategy => one_for_one},
        {error, {shutdown, {failed_to_start_child, Id, Why}}} =
            supervisor:start_link(?MODULE, {Flags, [spec(a, #{traps => true}), Bad]}),
        [{started, a, _}, tried, {ended, a, End}, {'EXIT', _, {shutdown, _}}] = collect(4),
        {Id, Why, End}
    end},
    {"a_child_that_ignores_is_kept_without_a_process", fun() ->
        Sup = start(one_for_one, [#{id => idle, start => {?MODULE, ignoring, [self()]}}, spec(b)]),
        {next(), started(1), pid_of(Sup, idle)}
    end}
].

ended_with(Kind, Reason) ->
    Sup = start(one_for_one, [spec(a, #{restart => Kind})]), started(1),
    Before = pid_of(Sup, a),
    fell(Sup, a, Reason), seen(Sup, a, Before),
    Again = case rest() of [{started, a, _}] -> restarted; [] -> not_restarted end,
    {Again, length(supervisor:which_children(Sup))}.

%% The supervisor has seen the end of this process.
seen(Sup, Id, Pid) ->
    case lists:keyfind(Id, 1, supervisor:which_children(Sup)) of
        {Id, Pid, _, _} -> seen(Sup, Id, Pid);
        _ -> ok
    end.

kinds() -> [
    {lists:concat(["a_", Kind, "_child_that_ends_with_", Reason]), fun() ->
        ended_with(Kind, Reason)
    end} || Kind <- [permanent, transient, temporary], Reason <- [normal, shutdown, boom]
] ++ [
    {"a_transient_child_that_ends_with_shutdown_and_a_word", fun() ->
        ended_with(transient, {shutdown, word})
    end},
    {"a_killed_child_is_restarted", fun() ->
        Sup = start(one_for_one, [spec(a, #{restart => transient})]), started(1),
        exit(pid_of(Sup, a), kill), started(1)
    end},
    {"too_many_restarts_end_the_supervisor", fun() ->
        process_flag(trap_exit, true),
        Sup = role(start(one_for_one, 2, [spec(a), spec(b, #{traps => true})]), supervisor),
        started(2),
        [begin fell(Sup, a, boom), started(1) end || _ <- [1, 2]],
        fell(Sup, a, boom),
        collect(2)
    end},
    {"as_many_restarts_as_allowed", fun() ->
        Sup = start(one_for_one, 3, [spec(a)]), started(1),
        Starts = [begin fell(Sup, a, boom), started(1) end || _ <- [1, 2, 3]],
        {Starts, is_process_alive(Sup)}
    end},
    {"intensity_0_allows_none", fun() ->
        process_flag(trap_exit, true),
        Sup = role(start(one_for_one, 0, [spec(a)]), supervisor), started(1), fell(Sup, a, boom),
        next()
    end},
    {"normal_ends_of_permanent_children_count", fun() ->
        process_flag(trap_exit, true),
        Sup = role(start(one_for_one, 0, [spec(a)]), supervisor), started(1), fell(Sup, a, normal),
        next()
    end},
    {"a_supervisor_under_a_supervisor_is_restarted", fun() ->
        Inner = {#{strategy => one_for_one, intensity => 0}, [spec(leaf)]},
        Sup = start(one_for_one, [#{id => inner, type => supervisor,
            start => {supervisor, start_link, [?MODULE, Inner]}}]),
        started(1), First = pid_of(Sup, inner),
        fell(First, leaf, boom), Again = started(1),
        {Again, pid_of(Sup, inner) =:= First}
    end}
].

verbs() -> [
    {"which_children", fun() ->
        Sup = start(one_for_one, [spec(a), spec(b, #{restart => temporary})]),
        [{Id, is_pid(Pid), Type} || {Id, Pid, Type, _} <- lists:sort(supervisor:which_children(Sup))]
    end},
    {"count_children", fun() ->
        Sup = start(one_for_one, [spec(a), spec(b), #{id => c, start => {?MODULE, ignoring, [self()]}}]),
        maps:from_list(supervisor:count_children(Sup))
    end},
    {"count_children_gives", fun() -> supervisor:count_children(start(one_for_one, [spec(a)])) end},
    {"what_a_supervisor_refuses", fun() ->
        supervisor:terminate_child(start(one_for_one, []), nobody)
    end},
    {"start_child", fun() ->
        Sup = start(one_for_one, []), {ok, Pid} = supervisor:start_child(Sup, spec(a)),
        {started(1), pid_of(Sup, a) =:= Pid}
    end},
    {"start_child_twice", fun() ->
        Sup = start(one_for_one, []), {ok, Pid} = supervisor:start_child(Sup, spec(a)),
        role(Pid, child), supervisor:start_child(Sup, spec(a))
    end},
    {"start_child_that_fails", fun() ->
        Sup = start(one_for_one, []),
        {error, {Why, _}} =
            supervisor:start_child(Sup, #{id => bad, start => {?MODULE, failing, [self()]}}),
        {Why, length(supervisor:which_children(Sup))}
    end},
    {"terminate_child", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1), Pid = pid_of(Sup, a), Ref = watch(Pid),
        {supervisor:terminate_child(Sup, a), down(Ref), quiet_starts(), pid_of(Sup, a)}
    end},
    {"terminate_an_unknown_child", fun() ->
        supervisor:terminate_child(start(one_for_one, []), nobody)
    end},
    {"terminate_a_temporary_child", fun() ->
        Sup = start(one_for_one, [spec(a, #{restart => temporary})]), started(1),
        {supervisor:terminate_child(Sup, a), supervisor:which_children(Sup)}
    end},
    {"restart_child", fun() ->
        Sup = start(one_for_one, [spec(a)]), started(1), supervisor:terminate_child(Sup, a),
        {ok, Pid} = supervisor:restart_child(Sup, a),
        {started(1), pid_of(Sup, a) =:= Pid}
    end},
    {"restart_a_child_that_runs", fun() ->
        supervisor:restart_child(start(one_for_one, [spec(a)]), a)
    end},
    {"restart_an_unknown_child", fun() ->
        supervisor:restart_child(start(one_for_one, []), nobody)
    end},
    {"delete_child", fun() ->
        Sup = start(one_for_one, [spec(a)]), supervisor:terminate_child(Sup, a),
        {supervisor:delete_child(Sup, a), supervisor:which_children(Sup)}
    end},
    {"delete_a_child_that_runs", fun() ->
        supervisor:delete_child(start(one_for_one, [spec(a)]), a)
    end},
    {"delete_an_unknown_child", fun() ->
        supervisor:delete_child(start(one_for_one, []), nobody)
    end},
    {"two_children_of_one_id", fun() ->
        process_flag(trap_exit, true),
        {error, Reason} = supervisor:start_link(?MODULE, {#{}, [spec(a), spec(a)]}),
        {error, Reason}
    end}
].

shutdowns() -> [
    {"children_end_last_first", fun() ->
        process_flag(trap_exit, true),
        Sup = role(start(one_for_one, [spec(Id, #{traps => true}) || Id <- [a, b, c]]), supervisor),
        started(3), exit(Sup, shutdown), collect(4)
    end},
    {"a_child_that_does_not_trap_ends_with_shutdown", fun() ->
        process_flag(trap_exit, true),
        Sup = start(one_for_one, [spec(a)]), started(1), Ref = watch(pid_of(Sup, a)),
        exit(Sup, shutdown), down(Ref)
    end},
    {"shutdown_brutal_kill", fun() ->
        Sup = start(one_for_one, [spec(a, #{shutdown => brutal_kill, traps => true})]), started(1),
        Ref = watch(pid_of(Sup, a)), supervisor:terminate_child(Sup, a), {down(Ref), quiet()}
    end},
    {"shutdown_time_is_over", fun() ->
        Sup = start(one_for_one, [spec(a, #{shutdown => 20, traps => true})]), started(1),
        Pid = pid_of(Sup, a), Pid ! stubborn, Ref = watch(Pid),
        {supervisor:terminate_child(Sup, a), down(Ref)}
    end},
    {"shutdown_in_time", fun() ->
        Sup = start(one_for_one, [spec(a, #{shutdown => 5000, traps => true})]), started(1),
        Ref = watch(pid_of(Sup, a)), {supervisor:terminate_child(Sup, a), next(), down(Ref)}
    end},
    {"a_supervisor_ends_with_its_parent", fun() ->
        Self = self(),
        Spec = spec(a, #{traps => true}),
        boom = died(fun() ->
            {ok, Sup} = supervisor:start_link(?MODULE, {#{}, [Spec]}), Self ! {sup, Sup}, exit(boom)
        end),
        started(1), {sup, Sup} = next(), Told = next(), {Told, is_gone(Sup)}
    end}
].

many(Restart) ->
    Spec = #{id => worker, start => {?MODULE, child, [self()]}, restart => Restart},
    start(simple_one_for_one, [Spec]).

dynamic() -> [
    {"dynamic_starts_with_none", fun() ->
        supervisor:count_children(many(permanent)) =:=
            [{specs, 1}, {active, 0}, {supervisors, 0}, {workers, 0}]
    end},
    {"dynamic_start_child", fun() ->
        Sup = many(permanent),
        [{ok, _} = supervisor:start_child(Sup, [Id, false]) || Id <- [x, y]],
        {started(2), proplists:get_value(active, supervisor:count_children(Sup))}
    end},
    {"dynamic_children_have_no_id", fun() ->
        Sup = many(permanent), {ok, Pid} = supervisor:start_child(Sup, [x, false]), role(Pid, child),
        [{Id, Who, Type} || {Id, Who, Type, _} <- supervisor:which_children(Sup)]
    end},
    {"dynamic_child_is_restarted_with_its_arguments", fun() ->
        Sup = many(permanent), {ok, Pid} = supervisor:start_child(Sup, [x, false]), started(1),
        Pid ! {stop, boom}, started(1)
    end},
    {"dynamic_temporary_child_is_forgotten", fun() ->
        Sup = many(temporary), {ok, Pid} = supervisor:start_child(Sup, [x, false]), started(1),
        Ref = watch(Pid), Pid ! {stop, boom}, down(Ref), seen(Sup, undefined, Pid),
        {quiet_starts(), supervisor:which_children(Sup)}
    end},
    {"dynamic_terminate_child", fun() ->
        Sup = many(permanent), {ok, Pid} = supervisor:start_child(Sup, [x, false]), started(1),
        Ref = watch(Pid),
        {supervisor:terminate_child(Sup, Pid), down(Ref), supervisor:which_children(Sup)}
    end},
    {"dynamic_terminate_an_unknown_child", fun() ->
        supervisor:terminate_child(many(permanent), self())
    end},
    {"dynamic_children_end_with_their_supervisor", fun() ->
        process_flag(trap_exit, true),
        Sup = many(permanent),
        Refs = [begin {ok, Pid} = supervisor:start_child(Sup, [Id, false]), watch(Pid) end
                || Id <- [x, y, z]],
        exit(Sup, shutdown), [down(Ref) || Ref <- Refs]
    end}
].
