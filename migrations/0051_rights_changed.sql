-- Registries remember that a session may go on. Whatever that rests on tells them when it changes.
create function tell_rights_changed() returns trigger language plpgsql as $$
begin
    notify chemxor_rights;
    return null;
end $$;

create trigger tokens_tell after update or delete on tokens
    for each statement execute function tell_rights_changed();
create trigger members_tell after update or delete on members
    for each statement execute function tell_rights_changed();
create trigger organisations_tell after update or delete on organisations
    for each statement execute function tell_rights_changed();
create trigger versions_tell after update or delete on versions
    for each statement execute function tell_rights_changed();
create trigger models_tell after update or delete on models
    for each statement execute function tell_rights_changed();
create trigger model_grants_tell after insert or update or delete on model_grants
    for each statement execute function tell_rights_changed();
create trigger consortium_members_tell after insert or update or delete on consortium_members
    for each statement execute function tell_rights_changed();
create trigger denied_certificates_tell after insert or update or delete on denied_certificates
    for each statement execute function tell_rights_changed();
create trigger quotas_tell after insert or update or delete on quotas
    for each statement execute function tell_rights_changed();
