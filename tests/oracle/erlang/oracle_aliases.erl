%% Requests and answers without a behaviour: a monitor that is an alias, as gen:call uses it.
-module(oracle_aliases).
-export([cases/0, ask/2, ask/3, reply/2]).
-import(oracle, [role/2, dead/0, next/0, rest/0, quiet/0, caught/1, collect/1, down/1,
                 watch/1, answering/0]).

ask(To, Request) -> ask(To, Request, 20000).
ask(To, Request, Ms) ->
    Ref = erlang:monitor(process, To, [{alias, reply_demonitor}]),
    To ! {request, Ref, Request},
    receive
        {Ref, Value} -> Value;
        {'DOWN', Ref, process, _, noconnection} -> exit({nodedown, in_call});
        {'DOWN', Ref, process, _, Reason} -> exit({Reason, in_call})
    after Ms ->
        demonitor(Ref, [flush]),
        receive {Ref, Value} -> Value after 0 -> exit({timeout, in_call}) end
    end.

reply(Caller, Value) -> Caller ! {Caller, Value}, ok.

%% A process that hands each request to a fun.
serving(Fun) -> role(spawn(fun() -> serve(Fun) end), server).
serve(Fun) -> receive {request, Caller, Request} -> Fun(Caller, Request) end, serve(Fun).

echo() -> serving(fun reply/2).

%% Gives its requests to `To`, who does with them what it likes.
handing(To) -> serving(fun(Caller, Request) -> To ! {asked, Caller, Request} end).

asking(To, Request) ->
    Self = self(),
    spawn(fun() -> Self ! {outcome, caught(fun() -> ask(To, Request) end)} end).

cases() -> [
    {"ask_and_reply", fun() -> ask(echo(), [hello, 1]) end},
    {"ask_by_name", fun() -> register(asked_name, echo()), ask(asked_name, hello) end},
    {"ask_by_name_and_node", fun() ->
        register(asked_there, echo()), ask({asked_there, node()}, hello)
    end},
    {"ask_answers_out_of_order", fun() ->
        To = handing(self()), [asking(To, N) || N <- [1, 2]],
        Asked = [{asked, _, _}, {asked, _, _}] = collect(2),
        [reply(Caller, {answer, N}) || {asked, Caller, N} <- lists:reverse(Asked)],
        lists:sort(collect(2))
    end},
    {"ask_reply_by_who_was_told_of_the_caller", fun() ->
        Self = self(),
        Third = spawn(fun() -> receive {please, Caller} -> reply(Caller, by_a_third) end end),
        asking(handing(Self), hello), {asked, Caller, hello} = next(),
        Third ! {please, Caller}, next()
    end},
    {"ask_a_second_reply_is_dropped", fun() ->
        To = serving(fun(Caller, _) -> reply(Caller, one), reply(Caller, two) end),
        {ask(To, hello), quiet()}
    end},
    {"ask_a_late_reply_is_dropped", fun() ->
        To = handing(self()),
        Outcome = caught(fun() -> ask(To, hello, 20) end),
        {asked, Caller, hello} = next(), reply(Caller, late),
        {Outcome, quiet()}
    end},
    {"ask_after_a_late_reply", fun() ->
        Self = self(),
        To = serving(fun(Caller, slow) -> Self ! {asked, Caller};
                        (Caller, Other) -> reply(Caller, Other) end),
        caught(fun() -> ask(To, slow, 20) end),
        {asked, Caller} = next(), reply(Caller, late),
        {ask(To, quick), quiet()}
    end},
    {"ask_the_dead", fun() -> Pid = dead(), {caught(fun() -> ask(Pid, hello) end), quiet()} end},
    {"ask_the_receiver_ends", fun() ->
        To = serving(fun(_, Reason) -> exit(Reason) end),
        {caught(fun() -> ask(To, boom) end), quiet()}
    end},
    {"ask_the_receiver_ends_normally", fun() ->
        To = serving(fun(_, Reason) -> exit(Reason) end), caught(fun() -> ask(To, normal) end)
    end},
    {"ask_the_receiver_is_killed", fun() ->
        To = serving(fun(_, hello) -> exit(self(), kill), receive never -> ok end end),
        caught(fun() -> ask(To, hello) end)
    end},
    {"ask_a_reply_before_the_end_counts", fun() ->
        To = serving(fun(Caller, Value) -> reply(Caller, Value), exit(boom) end),
        {ask(To, hello), quiet()}
    end},
    {"ask_a_reply_after_the_end_is_dropped", fun() ->
        To = handing(self()), asking(To, hello), {asked, Caller, hello} = next(),
        exit(To, boom), Outcome = next(), reply(Caller, late), {Outcome, quiet()}
    end},
    {"ask_the_asker_ends", fun() ->
        Self = self(),
        To = serving(fun(Caller, slow) -> Self ! {asked, Caller};
                        (Caller, Other) -> reply(Caller, Other) end),
        Asker = spawn(fun() -> ask(To, slow) end), {asked, Caller} = next(), Ref = watch(Asker),
        exit(Asker, boom), boom = down(Ref), reply(Caller, late),
        ask(To, still_here)
    end},
    {"ask_leaves_what_waits", fun() ->
        self() ! one, self() ! two, To = echo(), {ask(To, hello), rest()}
    end}
].
