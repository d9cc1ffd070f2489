%% gen_event: handlers come and go, a crash takes the handler only.
-module(oracle_gen_event).
-export([cases/0]).
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, caught/1, collect/1, died/1,
                 down/1, reason/1, watch/1, is_gone/1]).

start() -> {ok, Pid} = gen_event:start(), role(Pid, manager).

with(Handlers) ->
    Pid = start(),
    [ok = gen_event:add_handler(Pid, {oracle_handler, Id}, Funs) || {Id, Funs} <- Handlers],
    Pid.

ids(Pid) -> [Id || {oracle_handler, Id} <- gen_event:which_handlers(Pid)].

%% Tells of every event under this name.
teller(Id) ->
    Self = self(),
    #{event => fun(Event, S) -> Self ! {Id, Event}, {ok, S} end,
      call => fun(Request, S) -> {ok, {Id, Request}, S} end,
      terminate => fun(Why) -> Self ! {terminate, Id, shape(Why)}, {left_by, Id} end}.

shape({error, Why}) -> {error, case Why of {'EXIT', Inner} -> reason(Inner); _ -> Why end};
shape(Why) -> Why.

fails() -> (teller(bad))#{event => fun(_, _) -> error(bad) end}.

cases() -> [
    {"event_add_handler", fun() ->
        Pid = start(), {gen_event:add_handler(Pid, {oracle_handler, a}, #{}), ids(Pid)}
    end},
    {"event_newest_handler_is_first", fun() -> ids(with([{a, #{}}, {b, #{}}])) end},
    {"event_notify_reaches_all", fun() ->
        Pid = with([{a, teller(a)}, {b, teller(b)}]),
        Gave = gen_event:notify(Pid, hello), {Gave, collect(2)}
    end},
    {"event_notify_without_handlers", fun() -> gen_event:notify(start(), hello) end},
    {"event_sync_notify_waits", fun() ->
        Pid = with([{a, teller(a)}]), Gave = gen_event:sync_notify(Pid, hello), {Gave, rest()}
    end},
    {"event_notify_keeps_order", fun() ->
        Pid = with([{a, teller(a)}]), [gen_event:notify(Pid, N) || N <- [1, 2, 3]], collect(3)
    end},
    {"event_notify_the_dead", fun() -> gen_event:notify(dead(), hello) end},
    {"event_add_handler_twice", fun() ->
        Pid = with([{a, #{}}]), {gen_event:add_handler(Pid, {oracle_handler, a}, #{}), ids(Pid)}
    end},
    {"event_handler_that_does_not_start", fun() ->
        Pid = start(),
        {gen_event:add_handler(Pid, {oracle_handler, a}, #{init => fun(_) -> {error, no_luck} end}),
         ids(Pid)}
    end},
    {"event_handler_that_fails_in_init", fun() ->
        Pid = start(),
        {'EXIT', Why} = gen_event:add_handler(Pid, {oracle_handler, a},
                                              #{init => fun(_) -> error(bad) end}),
        {reason(Why), ids(Pid)}
    end},
    {"event_delete_handler", fun() ->
        Pid = with([{a, teller(a)}]),
        Gave = gen_event:delete_handler(Pid, {oracle_handler, a}, why),
        {Gave, next(), ids(Pid)}
    end},
    {"event_delete_an_unknown_handler", fun() ->
        gen_event:delete_handler(start(), {oracle_handler, a}, why)
    end},
    {"event_crash_takes_the_handler_only", fun() ->
        Pid = with([{bad, fails()}, {good, teller(good)}]),
        gen_event:sync_notify(Pid, hello),
        {lists:sort(rest()), ids(Pid), is_process_alive(Pid)}
    end},
    {"event_handler_removes_itself", fun() ->
        Pid = with([{a, (teller(a))#{event => fun(_, _) -> remove_handler end}}]),
        gen_event:sync_notify(Pid, hello), {rest(), ids(Pid)}
    end},
    {"event_call", fun() ->
        gen_event:call(with([{a, teller(a)}, {b, teller(b)}]), {oracle_handler, a}, question)
    end},
    {"event_call_an_unknown_handler", fun() ->
        gen_event:call(start(), {oracle_handler, a}, question)
    end},
    {"event_call_that_crashes", fun() ->
        Pid = with([{a, (teller(a))#{call => fun(_, _) -> error(bad) end}}]),
        {error, {'EXIT', Why}} = gen_event:call(Pid, {oracle_handler, a}, question),
        {reason(Why), ids(Pid)}
    end},
    {"event_swap_handler", fun() ->
        Self = self(),
        Pid = with([{a, teller(a)}]),
        Gave = gen_event:swap_handler(Pid, {{oracle_handler, a}, why}, {{oracle_handler, b},
            #{init => fun(#{handed := Handed} = S) -> Self ! {handed, Handed}, {ok, S} end}}),
        {Gave, rest(), ids(Pid)}
    end},
    {"event_swap_an_unknown_handler", fun() ->
        Self = self(), Pid = start(),
        Gave = gen_event:swap_handler(Pid, {{oracle_handler, a}, why}, {{oracle_handler, b},
            #{init => fun(#{handed := Handed} = S) -> Self ! {handed, Handed}, {ok, S} end}}),
        {Gave, rest(), ids(Pid)}
    end},
    {"event_info_reaches_all", fun() ->
        Self = self(),
        Pid = with([{Id, #{info => fun(M, S) -> Self ! {Id, M}, {ok, S} end}} || Id <- [a, b]]),
        Pid ! hello, collect(2)
    end},
    {"event_stop_terminates_the_handlers", fun() ->
        Pid = with([{a, teller(a)}, {b, teller(b)}]), Ref = watch(Pid),
        {gen_event:stop(Pid), lists:sort(collect(2)), down(Ref)}
    end},
    {"event_supervised_handler_tells_of_its_crash", fun() ->
        Pid = start(), ok = gen_event:add_sup_handler(Pid, {oracle_handler, bad}, fails()),
        gen_event:sync_notify(Pid, hello),
        [{terminate, bad, Why}, {gen_event_EXIT, {oracle_handler, Id}, {'EXIT', Told}}] = collect(2),
        {Why, Id, reason(Told)}
    end},
    {"event_supervised_handler_tells_that_it_was_deleted", fun() ->
        Pid = start(), ok = gen_event:add_sup_handler(Pid, {oracle_handler, a}, #{}),
        gen_event:delete_handler(Pid, {oracle_handler, a}, why), told()
    end},
    {"event_supervised_handler_tells_that_it_left", fun() ->
        Pid = start(), ok = gen_event:add_sup_handler(Pid, {oracle_handler, a},
                                                      #{event => fun(_, _) -> remove_handler end}),
        gen_event:notify(Pid, hello), told()
    end},
    {"event_supervised_handler_tells_of_the_managers_end", fun() ->
        Pid = start(), ok = gen_event:add_sup_handler(Pid, {oracle_handler, a}, #{}),
        gen_event:stop(Pid), told()
    end},
    {"event_supervised_handler_tells_that_it_was_swapped", fun() ->
        Pid = start(), ok = gen_event:add_sup_handler(Pid, {oracle_handler, a}, #{}),
        gen_event:swap_sup_handler(Pid, {{oracle_handler, a}, why}, {{oracle_handler, b}, #{}}),
        {gen_event_EXIT, {oracle_handler, a}, {swapped, {oracle_handler, New}, Owner}} = next(),
        {New, Owner, ids(Pid)}
    end},
    {"event_supervised_handler_is_linked_to_its_owner", fun() ->
        Pid = start(), process_flag(trap_exit, true),
        ok = gen_event:add_sup_handler(Pid, {oracle_handler, a}, #{}), exit(Pid, kill), next()
    end},
    {"event_a_handler_hands_over", fun() ->
        Self = self(),
        Pid = with([{a, (teller(a))#{event => fun(_, S) ->
            {swap_handler, why, S, {oracle_handler, b},
             #{init => fun(#{handed := Handed} = New) -> Self ! {handed, Handed}, {ok, New} end}} end}}]),
        gen_event:sync_notify(Pid, hello), {rest(), ids(Pid)}
    end},
    {"event_sync_notify_the_dead", fun() ->
        Pid = dead(), caught(fun() -> gen_event:sync_notify(Pid, hello) end)
    end},
    {"event_call_the_dead", fun() ->
        Pid = dead(), caught(fun() -> gen_event:call(Pid, {oracle_handler, a}, question) end)
    end},
    {"event_call_timeout", fun() ->
        Pid = with([{a, #{call => fun(_, _) -> receive never -> ok end end}}]),
        caught(fun() -> gen_event:call(Pid, {oracle_handler, a}, question, 20) end)
    end},
    {"event_name_is_taken", fun() ->
        {ok, First} = gen_event:start({local, event_name}), role(First, first),
        gen_event:start({local, event_name})
    end},
    {"event_by_name", fun() ->
        gen_event:start({local, event_named}),
        ok = gen_event:add_handler(event_named, {oracle_handler, a}, teller(a)),
        gen_event:notify(event_named, hello), next()
    end},
    {"event_manager_ends_with_its_parent", fun() ->
        Self = self(), Funs = teller(a),
        boom = died(fun() ->
            {ok, Pid} = gen_event:start_link(), ok = gen_event:add_handler(Pid, {oracle_handler, a}, Funs),
            Self ! {manager, Pid}, exit(boom)
        end),
        {manager, Pid} = next(), {next(), is_gone(Pid)}
    end},
    {"event_supervised_handler_goes_with_its_owner", fun() ->
        Pid = start(), Self = self(), Funs = teller(a),
        normal = died(fun() ->
            ok = gen_event:add_sup_handler(Pid, {oracle_handler, a}, Funs), Self ! added
        end),
        added = next(), {next(), ids(Pid)}
    end}
].

told() -> {gen_event_EXIT, {oracle_handler, Id}, Why} = next(), {Id, Why}.
