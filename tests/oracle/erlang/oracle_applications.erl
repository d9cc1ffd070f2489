%% application: trees that are started and stopped as one, with their settings.
-module(oracle_applications).
-export([cases/0]).
-import(oracle, [role/2, next/0, rest/0, collect/1, down/1, watch/1, died/1]).
-import(oracle_supervisor, [spec/2, started/1, pid_of/2]).

%% An application of this name with one child, which tells this process of its end, as do the
%% application's own functions.
load(Name) -> load(Name, []).
load(Name, More) ->
    Self = self(), Spec = spec(a, #{traps => true}),
    Funs = #{start => fun(_) ->
                 {ok, Sup} = supervisor:start_link(oracle_supervisor, {#{intensity => 0}, [Spec]}),
                 Self ! {top, Sup}, {ok, Sup} end,
             prep_stop => fun() -> Self ! prep_stop end, stop => fun() -> Self ! stop end},
    load_with(Name, Funs, More).

load_with(Name, Funs, More) ->
    Needs = proplists:get_value(needs, More, []),
    application:load({application, Name, [
        {description, "of the oracle"}, {vsn, "1.2"}, {modules, []}, {registered, []},
        {applications, [kernel, stdlib | Needs]}, {mod, {oracle_app, Funs}},
        {env, proplists:get_value(env, More, [])}]}),
    Name.

top() -> receive {top, Sup} -> Sup after 20000 -> none end.

runs(Name) -> lists:keymember(Name, 1, application:which_applications()).

%% The controller is told after the tree has ended.
gone(Name) -> case runs(Name) of true -> gone(Name); false -> gone end.

cases() -> [
    {"app_start", fun() ->
        Name = load(app_1), Before = runs(Name), Gave = application:start(Name),
        Outcome = {Before, Gave, started(1), runs(Name)}, application:stop(Name), Outcome
    end},
    {"app_start_type", fun() ->
        Self = self(),
        application:start(load_with(app_2, #{start => fun(Type) ->
            Self ! {type, Type}, supervisor:start_link(oracle_supervisor, {#{}, []}) end}, [])),
        application:stop(app_2), next()
    end},
    {"app_is_shown", fun() ->
        application:start(load(app_3)), {_, Text, Version} = Shown = hd(application:which_applications()),
        application:stop(app_3), {element(1, Shown), list_to_binary(Text), list_to_binary(Version)}
    end},
    {"app_start_twice", fun() ->
        application:start(load(app_4)), Gave = application:start(app_4), application:stop(app_4), Gave
    end},
    {"app_stop", fun() ->
        application:start(load(app_5)), started(1), top(), Gave = application:stop(app_5),
        {Gave, rest(), runs(app_5)}
    end},
    {"app_stop_what_does_not_run", fun() -> application:stop(load(app_6)) end},
    {"app_start_again", fun() ->
        application:start(load(app_7)), application:stop(app_7), Gave = application:start(app_7),
        application:stop(app_7), {Gave, started(2)}
    end},
    {"app_needs_another", fun() ->
        load(app_8), application:start(load(app_9, [{needs, [app_8]}]))
    end},
    {"app_ensure_all_started", fun() ->
        load(app_10), load(app_11, [{needs, [app_10]}]),
        Gave = application:ensure_all_started(app_11), Again = application:ensure_all_started(app_11),
        application:stop(app_11), application:stop(app_10), {Gave, Again}
    end},
    {"app_stop_leaves_what_it_needed", fun() ->
        load(app_12), load(app_13, [{needs, [app_12]}]), application:ensure_all_started(app_13),
        application:stop(app_13), Still = runs(app_12), application:stop(app_12), Still
    end},
    {"app_that_does_not_start", fun() ->
        {error, {Why, _}} = application:start(load_with(app_14,
            #{start => fun(_) -> {error, no_luck} end}, [])),
        {Why, runs(app_14)}
    end},
    {"app_one_below_that_does_not_start", fun() ->
        load_with(app_15, #{start => fun(_) -> {error, no_luck} end}, []),
        load(app_16, [{needs, [app_15]}]),
        {error, {app_15, {Why, _}}} = application:ensure_all_started(app_16), {Why, runs(app_16)}
    end},
    {"app_whose_tree_ends", fun() ->
        application:start(load(app_17)), started(1), Sup = top(), Ref = watch(Sup),
        pid_of(Sup, a) ! {stop, boom}, Reason = down(Ref), gone(app_17),
        {Reason, collect(2), application:stop(app_17)}
    end},
    {"app_outlives_who_started_it", fun() ->
        load(app_18), normal = died(fun() -> ok = application:start(app_18) end),
        Still = runs(app_18), application:stop(app_18), Still
    end},
    {"app_env", fun() ->
        load(app_19, [{env, [{ovens, 2}]}]), Default = application:get_env(app_19, ovens, none),
        application:set_env(app_19, ovens, 3),
        {Default, application:get_env(app_19, ovens, none), application:get_env(app_19, pots, none),
         application:get_all_env(app_19)}
    end},
    {"app_env_is_seen_by_its_processes", fun() ->
        Self = self(),
        application:start(load_with(app_20, #{start => fun(_) ->
            Self ! {ovens, application:get_env(app_20, ovens, none)},
            supervisor:start_link(oracle_supervisor, {#{}, []}) end}, [{env, [{ovens, 2}]}])),
        application:stop(app_20), next()
    end}
].
