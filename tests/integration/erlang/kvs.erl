%% The key-value store of seed 001: one process with a name, two functions that ask it.
-module(kvs).
-export([start/0, store/2, lookup/1]).

start() ->
    Starter = self(),
    Pid = spawn(fun() -> register(kvs, self()), Starter ! ready, loop(#{}) end),
    receive ready -> Pid end.

store(Key, Value) -> ask({store, Key, Value}).

lookup(Key) -> ask({lookup, Key}).

ask(Question) ->
    Ref = make_ref(),
    kvs ! {self(), Ref, Question},
    receive {Ref, Answer} -> Answer end.

loop(Values) ->
    receive
        {From, Ref, {store, Key, Value}} ->
            From ! {Ref, true},
            loop(Values#{Key => Value});
        {From, Ref, {lookup, Key}} ->
            From ! {Ref, case Values of #{Key := Value} -> {ok, Value}; _ -> undefined end},
            loop(Values)
    end.
