-- A reservation is resized while its session runs, and renewed so that it counts as open.

-- Grows with every change of a limit, so that a gateway notices that what it reserved was given under
-- other limits.
create sequence quota_revisions;
alter table quotas add column revision bigint not null default nextval('quota_revisions');

-- `queries` is the total over the life of the reservation; `settled_before` of them were counted on days
-- before `day`. Bytes and milliseconds: what was counted so far.
alter table reservations
    add column settled_before bigint not null default 0 check (settled_before >= 0),
    add column bytes bigint not null default 0 check (bytes >= 0),
    add column compute_ms bigint not null default 0 check (compute_ms >= 0);

-- When a blob of a draft was last uploaded to: what is left behind is collected after a while.
alter table blobs add column touched_at timestamptz not null default now();
