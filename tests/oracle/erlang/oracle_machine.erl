%% A gen_statem of one fun: #{init, event, terminate}; event(Type, Content, State, Data) gives what
%% a state function gives. Every event is handled by the one fun; the cases of state functions
%% select on the state.
-module(oracle_machine).
-behaviour(gen_statem).
-export([start/1, start_link/1, callback_mode/0, init/1, off/3, on/3, third/3, terminate/3]).

start(Funs) -> {ok, Pid} = gen_statem:start(?MODULE, Funs, []), Pid.
start_link(Funs) -> gen_statem:start_link(?MODULE, Funs, []).

callback_mode() ->
    case get(enter) of true -> [state_functions, state_enter]; _ -> state_functions end.

init(Funs) ->
    put(funs, Funs), put(enter, maps:get(enter, Funs, false)),
    case Funs of #{init := Init} -> Init(); _ -> {ok, off, []} end.

off(Type, Content, Data) -> event(Type, Content, off, Data).
on(Type, Content, Data) -> event(Type, Content, on, Data).
third(Type, Content, Data) -> event(Type, Content, third, Data).

event(Type, Content, State, Data) -> (maps:get(event, get(funs)))(Type, Content, State, Data).

terminate(Reason, State, Data) ->
    case get(funs) of #{terminate := Terminate} -> Terminate(Reason, State, Data); _ -> ok end.
