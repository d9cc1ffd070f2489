%% A gen_event handler of funs: #{init, event, call, info, terminate}.
-module(oracle_handler).
-behaviour(gen_event).
-export([init/1, handle_event/2, handle_call/2, handle_info/2, terminate/2]).

%% After swap_handler the argument is {Funs, what the old handler's terminate gave}.
init({Funs, Handed}) when is_map(Funs) -> init(Funs#{handed => Handed});
init(#{init := Init} = Funs) -> Init(Funs);
init(Funs) -> {ok, Funs}.

handle_event(Event, #{event := Fun} = Funs) -> Fun(Event, Funs);
handle_event(_, Funs) -> {ok, Funs}.

handle_call(Request, #{call := Fun} = Funs) -> Fun(Request, Funs).

handle_info(Message, #{info := Fun} = Funs) -> Fun(Message, Funs);
handle_info(_, Funs) -> {ok, Funs}.

terminate(Why, #{terminate := Fun}) -> Fun(Why);
terminate(_, _) -> terminated.
