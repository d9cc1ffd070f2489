%% A gen_server that is made of funs, so that a case can say all of it in one place:
%% #{init, call, cast, info, continue, terminate}; what is not given does the plain thing.
-module(oracle_server).
-behaviour(gen_server).
-export([start/1, start/2, start_link/1, init/1, handle_call/3, handle_cast/2, handle_info/2,
         handle_continue/2, terminate/2]).

start(Funs) -> gen_server:start(?MODULE, Funs, []).
start(Name, Funs) -> gen_server:start({local, Name}, ?MODULE, Funs, []).
start_link(Funs) -> gen_server:start_link(?MODULE, Funs, []).

init(Funs) ->
    put(funs, Funs),
    case Funs of #{init := Init} -> Init(); _ -> {ok, []} end.

handle_call(Request, From, State) ->
    case get(funs) of #{call := Call} -> Call(Request, From, State) end.

handle_cast(Request, State) ->
    case get(funs) of #{cast := Cast} -> Cast(Request, State); _ -> {noreply, [Request | State]} end.

handle_info(Message, State) ->
    case get(funs) of #{info := Info} -> Info(Message, State); _ -> {noreply, State} end.

handle_continue(What, State) -> (maps:get(continue, get(funs)))(What, State).

terminate(Reason, State) ->
    case get(funs) of #{terminate := Terminate} -> Terminate(Reason, State); _ -> ok end.
