"""The twelve lessons: what `drupelet lesson N` runs and checks. The programs are daemon/lessons."""
