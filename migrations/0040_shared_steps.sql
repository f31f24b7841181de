-- Several workers may share a step: each computes the output ciphertexts first_group..end_group of
-- it. Both 0: all of them.
alter table placements
    add column first_group integer not null default 0,
    add column end_group integer not null default 0,
    add check ((first_group = 0 and end_group = 0)
               or (first_group >= 0 and end_group > first_group and end_step = first_step + 1));
