-- Workers of a version change while it lives: one is authorised later, another withdrawn, as when a
-- sealing key is rotated. Rows come and go and are never rewritten; a draft is replaced as before;
-- what is revoked stays as it was. Blobs stay immutable (0002).
create function refuse_placement_change() returns trigger language plpgsql as $$
declare
    part record;
    stage text;
begin
    if tg_op = 'DELETE' then part := old; else part := new; end if;
    -- the share lock waits for a transition that is under way, and keeps the next one waiting
    select state into stage from versions where digest = part.version for share;
    if stage = 'draft' and (tg_op <> 'UPDATE' or new.version = old.version) then
        return part;
    end if;
    if tg_op = 'UPDATE' then
        raise exception 'keys and placements are immutable: they come and go';
    end if;
    if stage is null or stage not in ('submitted', 'approved', 'deprecated') then
        raise exception 'the workers of a version that is % stay', stage;
    end if;
    return part;
end $$;

drop trigger sealed_keys_stay on sealed_keys;
create trigger sealed_keys_stay before insert or update or delete on sealed_keys
    for each row execute function refuse_placement_change();
drop trigger placements_stay on placements;
create trigger placements_stay before insert or update or delete on placements
    for each row execute function refuse_placement_change();
