%% A gen_statem of one fun: #{init, event, terminate, enter, any}; event(Type, Content, State, Data)
%% gives what a state function gives. Every event is handled by the one fun, in state functions
%% unless `any` is true.
-module(oracle_machine).
-behaviour(gen_statem).
-export([start/1, start_link/1, callback_mode/0, init/1, off/3, on/3, third/3,
         handle_event/4, terminate/3]).

start(Funs) -> {ok, Pid} = gen_statem:start(?MODULE, Funs, []), Pid.
start_link(Funs) -> gen_statem:start_link(?MODULE, Funs, []).

callback_mode() ->
    [case get(any) of true -> handle_event_function; _ -> state_functions end
     | case get(enter) of true -> [state_enter]; _ -> [] end].

init(Funs) ->
    put(funs, Funs), [put(Key, maps:get(Key, Funs, false)) || Key <- [enter, any]],
    case Funs of #{init := Init} -> Init(); _ -> {ok, off, []} end.

off(Type, Content, Data) -> event(Type, Content, off, Data).
on(Type, Content, Data) -> event(Type, Content, on, Data).
third(Type, Content, Data) -> event(Type, Content, third, Data).

handle_event(Type, Content, State, Data) -> event(Type, Content, State, Data).

event(Type, Content, State, Data) -> (maps:get(event, get(funs)))(Type, Content, State, Data).

terminate(Reason, State, Data) ->
    case get(funs) of #{terminate := Terminate} -> Terminate(Reason, State, Data); _ -> ok end.
