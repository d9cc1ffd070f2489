%% An application of funs: its argument is #{start, prep_stop, stop}.
-module(oracle_app).
-behaviour(application).
-export([start/2, prep_stop/1, stop/1]).

start(Type, #{start := Start} = Funs) ->
    case Start(Type) of {ok, Pid} -> {ok, Pid, Funs}; Other -> Other end.

prep_stop(Funs) -> (maps:get(prep_stop, Funs, fun() -> ok end))(), Funs.

stop(Funs) -> (maps:get(stop, Funs, fun() -> ok end))().
