%% gen_server: calls, casts, what happens when they fail, and how servers begin and end.
-module(oracle_gen_server).
-export([cases/0, plain_server/1]).
-include("oracle.hrl").
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, quiet/1, caught/1, collect/1, died/1,
                 down/1, reason/1, watch/1, is_gone/1]).

start(Funs) -> {ok, Pid} = oracle_server:start(Funs), role(Pid, server).

%% `get` gives the state, `stop` stops with a reply, `crash` crashes, `exit` exits.
plain(get, _, State) -> {reply, State, State};
plain({put, Value}, _, State) -> {reply, {was, State}, Value};
plain(stop, _, State) -> {stop, normal, stopping, State};
plain(stop_without_reply, _, State) -> {stop, boom, State};
plain(crash, _, _) -> error(bad);
plain(exit, _, _) -> exit(boom);
plain(exit_normal, _, _) -> exit(normal);
plain(never, _, State) -> {noreply, State}.

plain() -> #{call => fun plain/3}.

plain_server(Name) -> {ok, Pid} = gen_server:start({local, Name}, oracle_server, plain(), []), Pid.

telling(To) -> #{call => fun plain/3,
    terminate => fun(Reason, State) -> To ! {terminate, reason(Reason), State} end}.

cases() -> starts() ++ calls() ++ failures() ++ others() ++ ends().

starts() -> [
    {"server_starts", fun() ->
        {ok, Pid} = oracle_server:start(plain()), is_process_alive(Pid)
    end},
    {"server_start_gives", fun() -> {ok, Pid} = oracle_server:start(plain()), {ok, role(Pid, server)} end},
    {"server_start_gives_no_reason", fun() ->
        oracle_server:start(#{init => fun() -> {stop, no_reason} end})
    end},
    {"server_init_gives_the_state", fun() ->
        gen_server:call(start((plain())#{init => fun() -> {ok, fresh} end}), get)
    end},
    {"server_init_runs_in_the_server", fun() ->
        Self = self(),
        Pid = start((plain())#{init => fun() -> Self ! {init, self()}, {ok, []} end}),
        {init, Who} = next(), Who =:= Pid
    end},
    {"server_init_stop", fun() ->
        oracle_server:start(#{init => fun() -> {stop, no_reason} end})
    end},
    {"server_init_ignore", fun() -> oracle_server:start(#{init => fun() -> ignore end}) end},
    {"server_init_exit", fun() -> oracle_server:start(#{init => fun() -> exit(boom) end}) end},
    {"server_init_error", fun() ->
        {error, Reason} = oracle_server:start(#{init => fun() -> error(bad) end}),
        {error, reason(Reason)}
    end},
    {"server_init_stop_when_linked", fun() ->
        process_flag(trap_exit, true),
        {oracle_server:start_link(#{init => fun() -> {stop, no_reason} end}), next()}
    end},
    {"server_init_ends_normally", fun() -> oracle_server:start(#{init => fun() -> exit(normal) end}) end},
    {"server_start_timeout", fun() ->
        Self = self(),
        Gave = gen_server:start(oracle_server, #{init => fun() ->
            Self ! {init, self()}, receive never -> {ok, []} end end}, [{timeout, 20}]),
        {init, Pid} = next(), {Gave, is_gone(Pid)}
    end},
    {"server_start_monitor", fun() ->
        {ok, {Pid, Ref}} = gen_server:start_monitor(oracle_server, plain(), []),
        exit(Pid, boom), down(Ref)
    end},
    {"server_start_monitor_of_one_that_does_not_start", fun() ->
        {gen_server:start_monitor(oracle_server, #{init => fun() -> {stop, no_reason} end}, []),
         quiet()}
    end},
    {"server_name_is_free_after_a_bad_start", fun() ->
        oracle_server:start(short_lived, #{init => fun() -> {stop, no_reason} end}),
        whereis(short_lived)
    end},
    {"server_has_its_name_in_init", fun() ->
        Self = self(),
        {ok, Pid} = oracle_server:start(named_early, #{init => fun() ->
            Self ! {named, whereis(named_early)}, {ok, []} end}),
        {named, Pid} =:= next()
    end},
    {"server_name_is_free_after_a_stop", fun() ->
        oracle_server:start(stopped_name, plain()), gen_server:stop(stopped_name),
        whereis(stopped_name)
    end},
    {"server_name_is_taken", fun() ->
        {ok, First} = oracle_server:start(server_name, plain()), role(First, first),
        oracle_server:start(server_name, plain())
    end},
    {"server_start_link_links", fun() ->
        process_flag(trap_exit, true),
        {ok, Pid} = oracle_server:start_link(plain()), role(Pid, server),
        exit(Pid, boom), next()
    end}
].

calls() -> [
    {"a_call", fun() -> gen_server:call(start(plain()), {put, new}) end},
    {"call_by_name", fun() ->
        oracle_server:start(called, plain()), gen_server:call(called, get)
    end},
    {"call_by_name_and_node", fun() ->
        oracle_server:start(called_there, plain()), gen_server:call({called_there, node()}, get)
    end},
    {"a_cast", fun() ->
        Pid = start(plain()), Gave = gen_server:cast(Pid, one), {Gave, gen_server:call(Pid, get)}
    end},
    {"casts_and_calls_keep_their_order", fun() ->
        Pid = start(plain()), [gen_server:cast(Pid, N) || N <- [1, 2, 3]], gen_server:call(Pid, get)
    end},
    {"cast_by_name", fun() ->
        oracle_server:start(cast_to, plain()), gen_server:cast(cast_to, one),
        gen_server:call(cast_to, get)
    end},
    {"info_is_handled", fun() ->
        Pid = start((plain())#{info => fun(M, State) -> {noreply, [{info, M} | State]} end}),
        Pid ! hello, gen_server:call(Pid, get)
    end},
    {"calls_of_many_are_answered_in_order", fun() ->
        Self = self(),
        Pid = start(#{init => fun() -> {ok, 0} end,
                      call => fun(count, _, N) -> {reply, N + 1, N + 1} end}),
        [spawn(fun() -> Self ! gen_server:call(Pid, count) end) || _ <- [1, 2, 3]],
        lists:sort(collect(3))
    end},
    {"reply_later", fun() ->
        Pid = start(#{call => fun(wait, From, []) -> {noreply, From} end,
                      cast => fun(go, From) -> gen_server:reply(From, later), {noreply, []} end}),
        spawn(fun() -> gen_server:cast(Pid, go) end),
        gen_server:call(Pid, wait)
    end},
    {"reply_by_another_process", fun() ->
        Pid = start(#{call => fun(ask, From, S) ->
            spawn(fun() -> gen_server:reply(From, {answered_by, other}) end), {noreply, S}
        end}),
        gen_server:call(Pid, ask)
    end},
    {"reply_before_the_return", fun() ->
        Pid = start(#{call => fun(ask, From, S) -> gen_server:reply(From, early), {noreply, S} end}),
        {gen_server:call(Pid, ask), quiet()}
    end},
    {"a_second_reply_is_dropped", fun() ->
        Pid = start(#{call => fun(ask, From, _) -> {reply, one, From};
                                 (get, _, S) -> {reply, got, S} end,
                      cast => fun(again, From) -> gen_server:reply(From, two), {noreply, From} end}),
        One = gen_server:call(Pid, ask), gen_server:cast(Pid, again),
        {One, gen_server:call(Pid, get), rest()}
    end},
    {"reply_and_stop", fun() ->
        Pid = start(plain()), Ref = watch(Pid), {gen_server:call(Pid, stop), down(Ref)}
    end},
    {"the_caller_of_a_call", fun() ->
        Pid = start(#{call => fun(who, {Caller, _Tag}, S) -> {reply, Caller, S} end}),
        gen_server:call(Pid, who)
    end}
].

failures() -> [
    {"call_to_the_dead", fun() -> Pid = dead(), caught(fun() -> gen_server:call(Pid, get) end) end},
    {"call_to_an_unknown_name", fun() ->
        caught(fun() -> gen_server:call(no_such_name, get) end)
    end},
    {"call_not_caught_ends_the_caller", fun() ->
        Pid = dead(), died(fun() -> gen_server:call(Pid, get) end)
    end},
    {"call_timeout", fun() ->
        Pid = start(plain()), caught(fun() -> gen_server:call(Pid, never, 20) end)
    end},
    {"call_timeout_spares_the_server", fun() ->
        Pid = start(plain()), caught(fun() -> gen_server:call(Pid, never, 20) end),
        gen_server:call(Pid, get)
    end},
    %% Who still waits after 6 s without having said how long.
    {"how_long_calls_wait", fun() ->
        Self = self(), Server = start(plain()),
        {ok, Machine} = gen_statem:start(oracle_machine,
            #{event => fun(_, _, _, _) -> keep_state_and_data end}, []),
        Busy = start((plain())#{cast => fun(_, S) -> receive never -> {noreply, S} end end}),
        gen_server:cast(Busy, block),
        [spawn(fun() -> caught(Call), Self ! {gave_up, Name} end) || {Name, Call} <- [
            {server, fun() -> gen_server:call(Server, never) end},
            {machine, fun() -> gen_statem:call(Machine, never) end},
            {stop, fun() -> gen_server:stop(Busy) end}]],
        First = next(), {First, quiet(1000)}
    end},
    {"a_late_reply_is_dropped", fun() ->
        Self = self(),
        Pid = start(#{call => fun(wait, From, []) -> {noreply, From} end,
                      cast => fun(go, From) ->
                          gen_server:reply(From, late), Self ! replied, {noreply, []} end}),
        Outcome = caught(fun() -> gen_server:call(Pid, wait, 20) end),
        gen_server:cast(Pid, go), replied = next(),
        {Outcome, quiet()}
    end},
    {"server_crashes_during_a_call", fun() ->
        Pid = start(plain()), Ref = watch(Pid),
        {caught(fun() -> gen_server:call(Pid, crash) end), down(Ref)}
    end},
    {"server_exits_during_a_call", fun() ->
        Pid = start(plain()), Ref = watch(Pid),
        {caught(fun() -> gen_server:call(Pid, exit) end), down(Ref)}
    end},
    {"server_ends_normally_during_a_call", fun() ->
        Pid = start(plain()), caught(fun() -> gen_server:call(Pid, exit_normal) end)
    end},
    {"server_stops_without_a_reply", fun() ->
        Pid = start(plain()), caught(fun() -> gen_server:call(Pid, stop_without_reply) end)
    end},
    {"server_is_killed_during_a_call", fun() ->
        Pid = start(plain()), spawn(fun() -> exit(Pid, kill) end),
        caught(fun() -> gen_server:call(Pid, never) end)
    end},
    {"unknown_call", fun() ->
        Pid = start(plain()), Ref = watch(Pid),
        {caught(fun() -> gen_server:call(Pid, no_such_call) end), down(Ref)}
    end},
    {"unknown_cast", fun() ->
        Pid = start((plain())#{cast => fun(known, S) -> {noreply, S} end}), Ref = watch(Pid),
        gen_server:cast(Pid, no_such_cast), down(Ref)
    end},
    {"call_to_oneself", fun() ->
        Pid = start(#{call => fun(again, _, S) ->
            {reply, caught(fun() -> gen_server:call(self(), again) end), S} end}),
        gen_server:call(Pid, again)
    end},
    {"cast_to_the_dead", fun() -> gen_server:cast(dead(), hello) end},
    {"cast_to_an_unknown_name", fun() -> gen_server:cast(no_such_name, hello) end},
    {"a_bad_return_ends_the_server", fun() ->
        Pid = start(#{cast => fun(_, _) -> rubbish end}), Ref = watch(Pid),
        gen_server:cast(Pid, hello), down(Ref)
    end}
].

others() -> [
    {"continue_comes_before_any_message", fun() ->
        Pid = start((plain())#{
            init => fun() -> self() ! first_message, {ok, [init], {continue, more}} end,
            continue => fun(more, S) -> {noreply, [continue | S]} end,
            info => fun(first_message, S) -> {noreply, [info | S]} end}),
        gen_server:call(Pid, get)
    end},
    {"continue_after_a_call", fun() ->
        Pid = start(#{init => fun() -> {ok, []} end,
            call => fun(go, _, S) -> {reply, going, S, {continue, rest}};
                       (get, _, S) -> {reply, S, S} end,
            continue => fun(rest, S) -> {noreply, [continued | S]} end}),
        {gen_server:call(Pid, go), gen_server:call(Pid, get)}
    end},
    {"timeout_of_an_idle_server", fun() ->
        Self = self(),
        start(#{init => fun() -> {ok, [], 10} end,
                info => fun(timeout, S) -> Self ! timed_out, {noreply, S} end}),
        {next(), quiet()}
    end},
    {"timeout_is_given_up_at_a_message", fun() ->
        Self = self(),
        Pid = start(#{init => fun() -> {ok, [], ?SOON_MS} end,
                cast => fun(_, S) -> {noreply, S} end,
                info => fun(timeout, S) -> Self ! timed_out, {noreply, S} end}),
        gen_server:cast(Pid, hello), quiet(?OVER_MS)
    end},
    {"unknown_info_is_survived", fun() ->
        Pid = start(plain()), Pid ! what_is_this, gen_server:call(Pid, get)
    end},
    {"a_trapping_server_gets_exits_as_info", fun() ->
        Self = self(),
        Pid = start((plain())#{
            init => fun() -> process_flag(trap_exit, true), {ok, []} end,
            info => fun({'EXIT', _, Reason}, S) -> Self ! {got_exit, Reason}, {noreply, S} end}),
        exit(Pid, boom), {next(), gen_server:call(Pid, get)}
    end},
    {"a_down_is_an_info", fun() ->
        Self = self(), Dead = dead(),
        start(#{init => fun() -> watch(Dead), {ok, []} end,
                info => fun({'DOWN', _, process, _, Reason}, S) ->
                    Self ! {got_down, Reason}, {noreply, S} end}),
        next()
    end}
].

ends() -> [
    {"stop_from_outside", fun() ->
        Pid = start(telling(self())), Ref = watch(Pid),
        {gen_server:stop(Pid), next(), down(Ref)}
    end},
    {"stop_with_a_reason", fun() ->
        Pid = start(telling(self())), Ref = watch(Pid),
        {gen_server:stop(Pid, because, 1000), next(), down(Ref)}
    end},
    {"stop_takes_too_long", fun() ->
        Pid = start((plain())#{cast => fun(_, S) -> receive go -> {noreply, S} end end}),
        gen_server:cast(Pid, block), Ref = watch(Pid),
        Gave = caught(fun() -> gen_server:stop(Pid, normal, 20) end), Pid ! go,
        {Gave, down(Ref)}
    end},
    {"stop_when_it_ends_otherwise", fun() ->
        Pid = start((plain())#{terminate => fun(_, _) -> exit(worse) end}),
        caught(fun() -> gen_server:stop(Pid) end)
    end},
    {"continue_that_fails", fun() ->
        Pid = start(#{init => fun() -> receive go -> {ok, [], {continue, x}} after 0 ->
                          {ok, [], {continue, x}} end end,
                      continue => fun(_, _) -> receive go -> exit(boom) end end}),
        Ref = watch(Pid), Pid ! go, down(Ref)
    end},
    {"what_waits_at_a_stop_is_lost", fun() ->
        Pid = start((plain())#{cast => fun(block, S) -> receive go -> {noreply, S} end;
                                          (stop, S) -> {stop, normal, S} end}),
        gen_server:cast(Pid, block), gen_server:cast(Pid, stop), Self = self(),
        spawn(fun() -> Self ! caught(fun() -> Self ! asked, gen_server:call(Pid, get) end) end),
        asked = next(), nothing = quiet(), Pid ! go, next()
    end},
    {"terminate_when_the_parent_ends_normally", fun() ->
        Self = self(),
        Funs = (telling(Self))#{init => fun() -> process_flag(trap_exit, true), {ok, state} end},
        normal = died(fun() -> {ok, _} = oracle_server:start_link(Funs) end), next()
    end},
    {"an_exit_of_another_does_not_end_a_trapping_server", fun() ->
        Pid = start((plain())#{
            init => fun() -> process_flag(trap_exit, true), {ok, []} end,
            info => fun({'EXIT', _, Reason}, S) -> {noreply, [Reason | S]} end}),
        died(fun() -> link(Pid), exit(boom) end), gen_server:call(Pid, get)
    end},
    {"terminate_that_waits_for_itself", fun() ->
        Self = self(),
        Pid = start((plain())#{terminate => fun(_, _) -> Self ! {ending, self()},
                                               receive go -> ok end end}),
        Ref = watch(Pid), spawn(fun() -> gen_server:stop(Pid) end),
        {ending, Pid} = next(), Before = is_process_alive(Pid), Pid ! go, {Before, down(Ref)}
    end},
    {"stop_the_dead", fun() -> Pid = dead(), caught(fun() -> gen_server:stop(Pid) end) end},
    {"terminate_after_a_stop", fun() ->
        Pid = start(telling(self())), Ref = watch(Pid), gen_server:call(Pid, stop),
        {next(), down(Ref)}
    end},
    {"terminate_after_a_crash", fun() ->
        Pid = start(telling(self())), caught(fun() -> gen_server:call(Pid, crash) end), next()
    end},
    {"terminate_after_an_exit", fun() ->
        Pid = start(telling(self())), caught(fun() -> gen_server:call(Pid, exit) end), next()
    end},
    {"no_terminate_after_a_signal", fun() ->
        Pid = start(telling(self())), Ref = watch(Pid), exit(Pid, boom), {down(Ref), quiet()}
    end},
    {"no_terminate_after_a_kill", fun() ->
        Self = self(),
        Pid = start((telling(Self))#{init => fun() -> process_flag(trap_exit, true), {ok, []} end}),
        Ref = watch(Pid), exit(Pid, kill), {down(Ref), quiet()}
    end},
    {"terminate_when_the_parent_ends_and_exits_are_trapped", fun() ->
        Self = self(),
        Funs = (telling(Self))#{init => fun() -> process_flag(trap_exit, true), {ok, state} end},
        boom = died(fun() ->
            {ok, Pid} = oracle_server:start_link(Funs), Self ! {server, Pid}, exit(boom)
        end),
        {server, Pid} = next(),
        {next(), is_gone(Pid)}
    end},
    {"no_terminate_when_the_parent_ends_and_nothing_is_trapped", fun() ->
        Self = self(),
        boom = died(fun() ->
            {ok, Pid} = oracle_server:start_link(telling(Self)), Self ! {server, Pid}, exit(boom)
        end),
        {server, Pid} = next(), down(watch(Pid)), quiet()
    end},
    {"the_reason_of_a_stop_from_a_cast", fun() ->
        Pid = start(#{cast => fun(_, S) -> {stop, {shutdown, done}, S} end}), Ref = watch(Pid),
        gen_server:cast(Pid, stop), down(Ref)
    end},
    {"a_crash_in_terminate_is_the_reason", fun() ->
        Pid = start(#{cast => fun(_, S) -> {stop, normal, S} end,
                      terminate => fun(_, _) -> exit(worse) end}),
        Ref = watch(Pid), gen_server:cast(Pid, stop), down(Ref)
    end}
].
