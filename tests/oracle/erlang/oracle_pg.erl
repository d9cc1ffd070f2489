%% pg: process groups on one node.
-module(oracle_pg).
-export([cases/0]).
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, caught/1, collect/1, died/1,
                 down/1, reason/1, watch/1, answering/0]).

%% A scope for each case: nothing is left from the one before.
scope(Name) -> {ok, _} = pg:start(Name), Name.

ends(Pid) -> Ref = watch(Pid), exit(Pid, boom), down(Ref).

cases() -> [
    {"pg_join", fun() ->
        Scope = scope(s1),
        {pg:join(Scope, group, self()), pg:get_members(Scope, group)}
    end},
    {"pg_members_of_an_unknown_group", fun() -> pg:get_members(scope(s2), nobody) end},
    {"pg_join_twice_is_twice_a_member", fun() ->
        Scope = scope(s3), pg:join(Scope, group, self()), pg:join(Scope, group, self()),
        pg:get_members(Scope, group)
    end},
    {"pg_leave_once_of_two", fun() ->
        Scope = scope(s4), pg:join(Scope, group, self()), pg:join(Scope, group, self()),
        {pg:leave(Scope, group, self()), pg:get_members(Scope, group),
         pg:leave(Scope, group, self()), pg:get_members(Scope, group)}
    end},
    {"pg_leave_what_was_not_joined", fun() -> pg:leave(scope(s5), group, self()) end},
    {"pg_join_of_several", fun() ->
        Scope = scope(s6), A = role(answering(), a), B = role(answering(), b),
        pg:join(Scope, group, [A, B]), lists:sort(pg:get_members(Scope, group)) =:= lists:sort([A, B])
    end},
    {"pg_local_members", fun() ->
        Scope = scope(s7), pg:join(Scope, group, self()), pg:get_local_members(Scope, group)
    end},
    {"pg_which_groups", fun() ->
        Scope = scope(s8), [pg:join(Scope, Group, self()) || Group <- [red, blue]],
        Before = lists:sort(pg:which_groups(Scope)), pg:leave(Scope, red, self()),
        {Before, pg:which_groups(Scope)}
    end},
    {"pg_a_dead_member_leaves", fun() ->
        Scope = scope(s9), Pid = answering(), pg:join(Scope, group, Pid),
        {Ref, _} = pg:monitor(Scope, group), ends(Pid), {Ref, leave, group, _} = next(),
        {pg:get_members(Scope, group), pg:which_groups(Scope)}
    end},
    {"pg_scopes_are_apart", fun() ->
        One = scope(s10), Other = scope(s11), pg:join(One, group, self()),
        {pg:get_members(One, group), pg:get_members(Other, group)}
    end},
    {"pg_monitor_tells_joins_and_leaves", fun() ->
        Scope = scope(s12), {Ref, Before} = pg:monitor(Scope, group),
        pg:join(Scope, group, self()), pg:leave(Scope, group, self()),
        [{Ref, join, group, Joined}, {Ref, leave, group, Left}] = collect(2),
        {Before, Joined, Left, rest()}
    end},
    {"pg_monitor_gives_who_is_there", fun() ->
        Scope = scope(s13), pg:join(Scope, group, self()),
        {_, Before} = pg:monitor(Scope, group), Before
    end},
    {"pg_monitor_tells_a_death", fun() ->
        Scope = scope(s14), Pid = role(answering(), child), pg:join(Scope, group, Pid),
        {Ref, _} = pg:monitor(Scope, group), ends(Pid),
        {Ref, leave, group, Left} = next(), Left
    end},
    {"pg_monitor_hears_of_its_group_only", fun() ->
        Scope = scope(s15), pg:monitor(Scope, red), pg:join(Scope, blue, self()), quiet()
    end},
    {"pg_demonitor", fun() ->
        Scope = scope(s16), {Ref, _} = pg:monitor(Scope, group), Gave = pg:demonitor(Scope, Ref),
        pg:join(Scope, group, self()), {Gave, quiet()}
    end},
    {"pg_monitor_scope", fun() ->
        Scope = scope(s17), pg:join(Scope, red, self()), {Ref, Before} = pg:monitor_scope(Scope),
        pg:join(Scope, blue, self()),
        {Ref, join, blue, Joined} = next(), {Before, Joined}
    end}
].
