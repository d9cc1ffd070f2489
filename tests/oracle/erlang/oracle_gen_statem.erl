%% gen_statem with state functions: transitions, postponing, the three kinds of timeouts, ends.
-module(oracle_gen_statem).
-export([cases/0]).
-include("oracle.hrl").
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, quiet/1, caught/1, collect/1, died/1,
                 down/1, reason/1, watch/1]).

machine(Event) -> role(oracle_machine:start(#{event => Event}), machine).
machine(Init, Event) -> role(oracle_machine:start(#{init => Init, event => Event}), machine).

%% A light: `push` switches it, `get` tells its state and how often it was switched on.
light({call, From}, get, State, Count) -> {keep_state_and_data, [{reply, From, {State, Count}}]};
light({call, From}, push, off, Count) -> {next_state, on, Count + 1, [{reply, From, on}]};
light({call, From}, push, on, Count) -> {next_state, off, Count, [{reply, From, off}]};
light(cast, push, off, Count) -> {next_state, on, Count + 1};
light(cast, push, on, Count) -> {next_state, off, Count};
light(info, _, _, Count) -> {keep_state, Count + 100}.

light() -> machine(fun() -> {ok, off, 0} end, fun light/4).

get_of(Pid) -> gen_statem:call(Pid, get).

%% Tells `To` every event; `go` with what a state function may give as result.
telling(To) ->
    fun({call, From}, {result, Result}, _, _) -> gen_statem:reply(From, ok), Result;
       ({call, From}, get, State, Data) -> {keep_state_and_data, [{reply, From, {State, Data}}]};
       (Type, Content, State, _) -> To ! {event, kind(Type), Content, State}, keep_state_and_data
    end.

kind({timeout, Name}) -> {timeout, Name};
kind({call, _}) -> call;
kind(Type) -> Type.

go(Pid, Result) -> gen_statem:call(Pid, {result, Result}).

cases() -> plain() ++ postponing() ++ timeouts() ++ ends().

plain() -> [
    {"statem_call_changes_the_state", fun() ->
        Pid = light(), [gen_statem:call(Pid, push), gen_statem:call(Pid, push), get_of(Pid)]
    end},
    {"statem_cast", fun() ->
        Pid = light(), Gave = gen_statem:cast(Pid, push), {Gave, get_of(Pid)}
    end},
    {"statem_info", fun() -> Pid = light(), Pid ! hello, get_of(Pid) end},
    {"statem_reply_later", fun() ->
        Pid = machine(fun() -> {ok, off, none} end, fun
            ({call, From}, wait, _, none) -> {keep_state, From};
            (cast, go, _, From) -> {keep_state, none, [{reply, From, later}]} end),
        spawn(fun() -> gen_statem:cast(Pid, go) end),
        gen_statem:call(Pid, wait)
    end},
    {"statem_enter_calls", fun() ->
        Self = self(),
        Pid = oracle_machine:start(#{enter => true, event => fun
            (enter, Old, State, _) -> Self ! {enter, Old, State}, keep_state_and_data;
            ({call, From}, Next, _, Data) -> {next_state, Next, Data, [{reply, From, ok}]} end}),
        gen_statem:call(Pid, on), gen_statem:call(Pid, on), gen_statem:call(Pid, off),
        rest()
    end},
    {"statem_next_event_comes_first", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{next_event, internal, one}, {next_event, internal, two}]}),
        collect(2)
    end},
    {"statem_next_event_before_what_waits", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, first, _, _) -> Self ! first, Wait = receive go -> ok end, _ = Wait,
                {keep_state_and_data, [{next_event, internal, inner}]};
            (_, Content, _, _) -> Self ! Content, keep_state_and_data end),
        gen_statem:cast(Pid, first), first = next(), gen_statem:cast(Pid, waiting), Pid ! go,
        collect(2)
    end},
    {"statem_repeat_state_enters_again", fun() ->
        Self = self(),
        Pid = oracle_machine:start(#{enter => true, event => fun
            (enter, Old, State, _) -> Self ! {enter, Old, State}, keep_state_and_data;
            (cast, again, _, _) -> repeat_state_and_data;
            ({call, From}, sync, _, _) -> {keep_state_and_data, [{reply, From, ok}]} end}),
        gen_statem:cast(Pid, again), gen_statem:call(Pid, sync), rest()
    end},
    {"statem_the_same_state_is_not_entered", fun() ->
        Self = self(),
        Pid = oracle_machine:start(#{enter => true, event => fun
            (enter, Old, State, _) -> Self ! {enter, Old, State}, keep_state_and_data;
            (cast, again, State, Data) -> {next_state, State, Data};
            ({call, From}, sync, _, _) -> {keep_state_and_data, [{reply, From, ok}]} end}),
        gen_statem:cast(Pid, again), gen_statem:call(Pid, sync), rest()
    end},
    {"statem_enter_call_sets_a_timeout", fun() ->
        Self = self(),
        oracle_machine:start(#{enter => true, event => fun
            (enter, _, _, _) -> {keep_state_and_data, [{state_timeout, 10, ring}]};
            (Type, Content, State, _) -> Self ! {event, Type, Content, State},
                keep_state_and_data end}),
        next()
    end},
    {"statem_a_state_of_any_data", fun() ->
        Pid = oracle_machine:start(#{any => true, init => fun() -> {ok, {count, 0}, []} end,
            event => fun
            ({call, From}, up, {count, N}, D) -> {next_state, {count, N + 1}, D, [{reply, From, N}]};
            ({call, From}, get, State, _) -> {keep_state_and_data, [{reply, From, State}]} end}),
        [gen_statem:call(Pid, up), gen_statem:call(Pid, up), get_of(Pid)]
    end},
    {"statem_a_down_is_an_info", fun() ->
        Self = self(), Dead = dead(),
        machine(fun() -> watch(Dead), {ok, off, []} end, fun
            (info, {'DOWN', _, process, _, Reason}, _, _) -> Self ! {got_down, Reason},
                keep_state_and_data end),
        next()
    end},
    {"statem_unknown_event", fun() ->
        Pid = light(), Ref = watch(Pid), gen_statem:cast(Pid, no_such_cast), down(Ref)
    end},
    {"statem_unknown_call", fun() ->
        Pid = light(), Ref = watch(Pid),
        {caught(fun() -> gen_statem:call(Pid, no_such_call) end), down(Ref)}
    end}
].

postponing() -> [
    {"statem_postponed_until_the_state_changes", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, open, off, D) -> {next_state, on, D};
            (cast, N, off, _) -> Self ! {put_off, N}, {keep_state_and_data, [postpone]};
            (cast, N, on, _) -> Self ! {done, N}, keep_state_and_data end),
        [gen_statem:cast(Pid, M) || M <- [1, 2, open, 3]],
        collect(5)
    end},
    {"statem_postponed_calls_are_answered", fun() ->
        Pid = machine(fun
            (cast, open, off, D) -> {next_state, on, D};
            ({call, _}, _, off, _) -> {keep_state_and_data, [postpone]};
            ({call, From}, What, on, _) -> {keep_state_and_data, [{reply, From, {on, What}}]} end),
        spawn(fun() -> gen_statem:cast(Pid, open) end),
        gen_statem:call(Pid, hello)
    end},
    {"statem_postponed_is_not_tried_in_the_same_state", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, again, off, D) -> {next_state, off, D};
            (cast, N, off, _) -> Self ! {put_off, N}, {keep_state_and_data, [postpone]};
            ({call, From}, sync, _, _) -> {keep_state_and_data, [{reply, From, ok}]} end),
        [gen_statem:cast(Pid, M) || M <- [1, again]], gen_statem:call(Pid, sync), rest()
    end},
    {"statem_repeat_state_tries_nothing_again", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, again, off, _) -> repeat_state_and_data;
            (cast, N, off, _) -> Self ! {put_off, N}, {keep_state_and_data, [postpone]};
            ({call, From}, sync, _, _) -> {keep_state_and_data, [{reply, From, ok}]} end),
        [gen_statem:cast(Pid, M) || M <- [1, again]], gen_statem:call(Pid, sync), rest()
    end},
    {"statem_next_events_come_before_postponed", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, open, off, D) -> {next_state, on, D, [{next_event, internal, inner}]};
            (cast, _, off, _) -> {keep_state_and_data, [postpone]};
            (_, N, on, _) -> Self ! N, keep_state_and_data end),
        [gen_statem:cast(Pid, M) || M <- [1, 2, open]], collect(3)
    end},
    {"statem_postponed_twice_keep_their_order", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, open, off, D) -> {next_state, on, D};
            (cast, open, on, D) -> {next_state, third, D};
            (cast, N, third, _) -> Self ! N, keep_state_and_data;
            (cast, _, _, _) -> {keep_state_and_data, [postpone]} end),
        [gen_statem:cast(Pid, M) || M <- [1, 2, open, 3, open, 4]], collect(4)
    end}
].

timeouts() -> [
    {"statem_state_timeout", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, 10, ring}]}), {next(), quiet()}
    end},
    {"statem_state_timeout_ends_with_the_state", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, ring}]}),
        go(Pid, {next_state, on, []}), quiet(?OVER_MS)
    end},
    {"statem_state_timeout_outlives_an_event", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, ring}]}),
        get_of(Pid), next()
    end},
    {"statem_state_timeout_is_replaced", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, first}]}),
        go(Pid, {keep_state_and_data, [{state_timeout, 10, second}]}), {next(), quiet(?OVER_MS)}
    end},
    {"statem_state_timeout_is_cancelled", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, ring}]}),
        go(Pid, {keep_state_and_data, [{state_timeout, cancel}]}), quiet(?OVER_MS)
    end},
    {"statem_event_timeout", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{timeout, 10, idle}]}), next()
    end},
    {"statem_event_timeout_ends_with_an_event", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{timeout, ?SOON_MS, idle}]}), get_of(Pid), quiet(?OVER_MS)
    end},
    {"statem_generic_timeout", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{{timeout, egg}, 10, boiled}]}), next()
    end},
    {"statem_generic_timeout_outlives_the_state", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{{timeout, egg}, ?SOON_MS, boiled}]}),
        go(Pid, {next_state, on, []}), next()
    end},
    {"statem_generic_timeouts_by_name", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{{timeout, slow}, ?SOON_MS, two}, {{timeout, quick}, 10, one}]}),
        collect(2)
    end},
    {"statem_generic_timeout_is_cancelled", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{{timeout, egg}, ?SOON_MS, boiled}]}),
        go(Pid, {keep_state_and_data, [{{timeout, egg}, cancel}]}), quiet(?OVER_MS)
    end},
    {"statem_state_timeout_of_the_next_state", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {next_state, on, [], [{state_timeout, 10, ring}]}), next()
    end},
    {"statem_a_timeout_gets_another_content", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, first}]}),
        go(Pid, {keep_state_and_data, [{state_timeout, update, second}]}), {next(), quiet()}
    end},
    {"statem_the_content_of_no_timeout", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{{timeout, egg}, update, boiled}]}), next()
    end},
    {"statem_timeout_infinity_cancels", fun() ->
        Self = self(), Pid = machine(telling(Self)),
        go(Pid, {keep_state_and_data, [{state_timeout, ?SOON_MS, ring}]}),
        go(Pid, {keep_state_and_data, [{state_timeout, infinity, ring}]}), quiet(?OVER_MS)
    end},
    {"statem_event_timeout_0_is_given_up_for_what_waits", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, first, _, _) -> Self ! first, receive go -> ok end,
                {keep_state_and_data, [{next_event, internal, inner}, {timeout, 0, zero}]};
            (_, Content, _, _) -> Self ! Content, keep_state_and_data end),
        gen_statem:cast(Pid, first), first = next(), Pid ! go, {next(), quiet()}
    end},
    {"statem_state_timeout_0_comes_before_what_waits", fun() ->
        Self = self(),
        Pid = machine(fun
            (cast, first, _, _) -> Self ! first, receive go -> ok end,
                {keep_state_and_data, [{state_timeout, 0, zero}]};
            (_, Content, _, _) -> Self ! Content, keep_state_and_data end),
        gen_statem:cast(Pid, first), first = next(), gen_statem:cast(Pid, waiting), Pid ! go,
        collect(2)
    end}
].

ends() -> [
    {"statem_stop", fun() ->
        Self = self(),
        Pid = oracle_machine:start(#{terminate => fun(R, S, D) -> Self ! {terminate, R, S, D} end}),
        Ref = watch(Pid), {gen_statem:stop(Pid), next(), down(Ref)}
    end},
    {"statem_stop_from_inside", fun() ->
        Pid = machine(fun(cast, stop, _, _) -> {stop, {shutdown, done}} end), Ref = watch(Pid),
        gen_statem:cast(Pid, stop), down(Ref)
    end},
    {"statem_stop_and_reply", fun() ->
        Pid = machine(fun({call, From}, stop, _, _) ->
            {stop_and_reply, normal, [{reply, From, bye}]} end),
        Ref = watch(Pid), {gen_statem:call(Pid, stop), down(Ref)}
    end},
    {"statem_crashes_during_a_call", fun() ->
        Pid = machine(fun(_, _, _, _) -> exit(boom) end), Ref = watch(Pid),
        {caught(fun() -> gen_statem:call(Pid, hello) end), down(Ref)}
    end},
    {"statem_call_to_the_dead", fun() ->
        Pid = dead(), caught(fun() -> gen_statem:call(Pid, hello) end)
    end},
    {"statem_call_timeout", fun() ->
        Pid = machine(fun(_, _, _, _) -> keep_state_and_data end),
        caught(fun() -> gen_statem:call(Pid, hello, 20) end)
    end},
    {"statem_terminate_after_an_exit", fun() ->
        Self = self(),
        Pid = oracle_machine:start(#{event => fun(_, _, _, _) -> exit(boom) end,
            terminate => fun(R, S, D) -> Self ! {terminate, R, S, D} end}),
        caught(fun() -> gen_statem:call(Pid, hello) end), next()
    end},
    {"statem_stop_the_dead", fun() ->
        Pid = dead(), caught(fun() -> gen_statem:stop(Pid) end)
    end},
    {"statem_no_such_state", fun() ->
        Pid = machine(fun(cast, go, _, D) -> {next_state, nowhere, D};
                         (cast, on, _, D) -> {next_state, on, D} end),
        Ref = watch(Pid), gen_statem:cast(Pid, go), gen_statem:cast(Pid, hello), down(Ref)
    end},
    {"statem_name_is_taken", fun() ->
        {ok, First} = gen_statem:start({local, statem_name}, oracle_machine, #{}, []),
        role(First, first), gen_statem:start({local, statem_name}, oracle_machine, #{}, [])
    end},
    {"statem_init_stop", fun() ->
        gen_statem:start(oracle_machine, #{init => fun() -> {stop, no_reason} end}, [])
    end},
    {"statem_init_ignore", fun() ->
        gen_statem:start(oracle_machine, #{init => fun() -> ignore end}, [])
    end}
].
