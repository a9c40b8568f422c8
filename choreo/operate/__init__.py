"""Operations on a running platform: dead letters and pending joins."""
