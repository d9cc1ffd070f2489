%% Times of the cases. What is undone before it happens has SOON_MS for that; quiet(?OVER_MS) then
%% sees that it did not happen.
-define(SOON_MS, 150).
-define(OVER_MS, 200).
