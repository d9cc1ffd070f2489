%% Sending, receiving, timeouts and timers.
-module(oracle_messages).
-export([cases/0]).
-include("oracle.hrl").
-import(oracle, [role/2, dead/0, next/0, rest/0, nothing/0, quiet/0, quiet/1, caught/1, collect/1, died/1, answering/0, down/1]).

cases() -> [
    {"send_keeps_order", fun() ->
        Self = self(),
        spawn(fun() -> [Self ! N || N <- lists:seq(1, 5)] end),
        collect(5)
    end},
    {"send_to_oneself", fun() -> self() ! hello, next() end},
    {"send_gives_the_message", fun() -> self() ! hello end},
    {"receive_takes_the_oldest", fun() -> [self() ! N || N <- [a, b, c]], {next(), rest()} end},
    {"receive_selects_and_leaves_the_rest", fun() ->
        [self() ! N || N <- [a, b, c, d]],
        C = receive c -> c end,
        A = receive a -> a end,
        {C, A, rest()}
    end},
    {"receive_with_a_guard", fun() ->
        [self() ! N || N <- [1, 20, 3]],
        Big = receive N when is_integer(N), N > 10 -> N end,
        {Big, rest()}
    end},
    {"receive_prefers_age_to_the_first_pattern", fun() ->
        [self() ! N || N <- [b, a]],
        First = receive a -> a; b -> b end,
        {First, rest()}
    end},
    {"receive_of_a_shape", fun() ->
        [self() ! M || M <- [{put, 1}, 7, {get, x}, {put, 2}]],
        {put, First} = receive {put, _} = Put -> Put end,
        {put, Second} = receive {put, _} = Put2 -> Put2 end,
        {First, Second, rest()}
    end},
    {"receive_timeout_0_of_an_empty_mailbox", fun() ->
        receive M -> M after 0 -> timeout end
    end},
    {"receive_timeout_0_takes_what_waits", fun() ->
        self() ! hello, receive M -> M after 0 -> timeout end
    end},
    {"receive_timeout_0_leaves_what_does_not_fit", fun() ->
        self() ! hello, {receive other -> other after 0 -> timeout end, rest()}
    end},
    {"receive_timeout_is_waited_for", fun() ->
        Start = erlang:monotonic_time(millisecond),
        What = receive M -> M after 20 -> timeout end,
        {What, erlang:monotonic_time(millisecond) - Start >= 20}
    end},
    {"receive_timeout_is_not_prolonged_by_other_messages", fun() ->
        [erlang:send_after(N, self(), noise) || N <- [10, 20, 30]],
        What = receive wanted -> wanted after ?SOON_MS -> timeout end,
        {What, rest()}
    end},
    {"send_to_the_dead", fun() -> dead() ! hello, still_here end},
    {"send_to_an_unknown_name", fun() -> caught(fun() -> no_such_name ! hello end) end},
    {"send_to_an_unknown_name_with_node", fun() ->
        {no_such_name, node()} ! hello, still_here
    end},
    {"send_to_ones_own_name", fun() -> register(own, self()), own ! hello, next() end},
    {"send_to_a_name_with_node", fun() ->
        register(own, self()), {own, node()} ! hello, next()
    end},
    {"a_message_is_a_copy", fun() ->
        List = [1], self() ! List, _ = [2 | List], next()
    end},
    {"a_pid_in_a_message_can_be_sent_to", fun() ->
        Self = self(),
        spawn(fun() -> receive {to, [{pid, Pid}]} -> Pid ! {from_child, ok} end end)
            ! {to, [{pid, Self}]},
        next()
    end},
    {"a_ref_survives_a_message", fun() ->
        Ref = make_ref(), self() ! {ref, Ref}, {ref, Back} = next(), Back =:= Ref
    end},
    {"a_word_in_a_message", fun() ->
        self() ! hello, Word = next(), {is_atom(Word), is_binary(Word)}
    end},
    {"refs_are_unique", fun() -> make_ref() =:= make_ref() end},
    {"a_function_in_a_message", fun() ->
        self() ! fun() -> ok end, receive F when is_function(F) -> delivered end
    end},
    {"process_dictionary", fun() -> put(key, value), get(key) end},
    {"timer_fires", fun() -> erlang:send_after(5, self(), tick), next() end},
    {"timers_fire_by_time", fun() ->
        [erlang:send_after(Ms, self(), Ms) || Ms <- [300, 100, 200]], collect(3)
    end},
    {"timers_of_equal_time_fire_in_their_order", fun() ->
        At = erlang:monotonic_time(millisecond) + 10,
        [erlang:send_after(At, self(), N, [{abs, true}]) || N <- [1, 2, 3, 4]],
        collect(4)
    end},
    {"timer_0", fun() -> erlang:send_after(0, self(), tick), next() end},
    {"cancel_timer_gives_what_was_left", fun() ->
        Timer = erlang:send_after(5000, self(), tick),
        Left = erlang:cancel_timer(Timer),
        {Left > 4000 andalso Left =< 5000, nothing()}
    end},
    {"cancel_a_timer_that_fired", fun() ->
        Timer = erlang:send_after(0, self(), tick),
        {next(), erlang:cancel_timer(Timer)}
    end},
    {"cancel_a_timer_twice", fun() ->
        Timer = erlang:send_after(5000, self(), tick),
        {is_integer(erlang:cancel_timer(Timer)), erlang:cancel_timer(Timer)}
    end},
    {"a_cancelled_timer_does_not_fire", fun() ->
        erlang:cancel_timer(erlang:send_after(?SOON_MS, self(), tick)), quiet(?OVER_MS)
    end},
    {"reading_a_timer", fun() ->
        Timer = erlang:send_after(5000, self(), tick),
        Left = erlang:read_timer(Timer),
        {Left > 4000, is_integer(erlang:cancel_timer(Timer)), erlang:read_timer(Timer)}
    end},
    {"cancel_a_timer_of_another", fun() ->
        Self = self(), Timer = erlang:send_after(?SOON_MS, self(), tick),
        normal = died(fun() -> Self ! is_integer(erlang:cancel_timer(Timer)) end),
        {next(), quiet(?OVER_MS)}
    end},
    {"a_timer_of_who_died_is_over", fun() ->
        Pid = answering(), Timer = erlang:send_after(60000, Pid, tick),
        exit(Pid, kill), down(erlang:monitor(process, Pid)), erlang:read_timer(Timer)
    end},
    {"a_timer_of_the_dead_is_over", fun() ->
        erlang:read_timer(erlang:send_after(60000, dead(), tick))
    end},
    {"receive_timeout_below_0", fun() ->
        After = -1, caught(fun() -> receive M -> M after After -> timeout end end)
    end},
    {"timer_below_0", fun() -> caught(fun() -> erlang:send_after(-1, self(), tick) end) end},
    {"timer_to_the_dead", fun() ->
        erlang:send_after(0, dead(), tick), erlang:send_after(5, self(), later), next()
    end},
    {"timer_to_a_name_that_comes_later", fun() ->
        erlang:send_after(?SOON_MS, latecomer, tick), register(latecomer, self()), next()
    end},
    {"a_timer_survives_who_started_it", fun() ->
        Self = self(),
        normal = died(fun() -> erlang:send_after(?SOON_MS, Self, tick) end),
        next()
    end}
].
