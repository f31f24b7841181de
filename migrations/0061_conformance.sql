-- What the conformance run of a submitted version showed, signed by its publisher. Only runs that
-- passed are kept; without one a version is not approved.
create table conformance (
    version      bytea primary key references versions (digest),
    report       bytea not null,
    signature    bytea not null check (length(signature) = 64),
    recorded_by  text not null,
    recorded_at  timestamptz not null default now()
);

create trigger conformance_stays before update or delete on conformance
    for each row execute function refuse_history_change();
