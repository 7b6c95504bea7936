-- SQLite: what the database gets, by the names that statements have in src/engines/sqlite.
-- Written by `npm run sql`, with the reasons from reasons.ts.

-- acquire
-- A statement that writes has the file to itself from before it looks until it has committed, so of two who come at
-- once the second sees the first. A file that is busy is an error at once, and the statement is repeated.
insert into "rowlock_locks" as l (name, owner, token, expires_at, holder)
select asked.value ->> 'name',
       case when asked.value ->> 'ttlMs' is not null then asked.value ->> 'owner' end,
       cast(unixepoch('subsec') * 1000 as integer) * 1000,
       cast(unixepoch('subsec') * 1000 as integer) + coalesce(asked.value ->> 'ttlMs', 0),
       asked.value ->> 'holder'
from json_each(?) as asked
where true
on conflict (name) do update
set owner = excluded.owner,
    token = case when l.owner = excluded.owner then l.token else max(l.token + 1, excluded.token) end,
    expires_at = excluded.expires_at,
    holder = excluded.holder,
    handed_to = null,
    takeover = case when l.owner = excluded.owner then l.takeover else l.owner is not null end
where l.owner = excluded.owner or (l.queue is null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)))
returning name, cast(token as text) as token, takeover

-- acquireIn
-- In the caller's transaction, which has the file to itself from here to its end: nobody takes any lock meanwhile. A
-- file that is busy is an error, after which a deferred transaction has to begin again.
insert into "rowlock_locks" as l (name, owner, token, expires_at, holder)
select asked.value ->> 'name',
       case when asked.value ->> 'ttlMs' is not null then asked.value ->> 'owner' end,
       cast(unixepoch('subsec') * 1000 as integer) * 1000,
       cast(unixepoch('subsec') * 1000 as integer) + coalesce(asked.value ->> 'ttlMs', 0),
       asked.value ->> 'holder'
from json_each(?) as asked
where true
on conflict (name) do update
set owner = excluded.owner,
    token = case when l.owner = ? then l.token else max(l.token + 1, excluded.token) end,
    expires_at = excluded.expires_at,
    holder = excluded.holder,
    handed_to = null,
    takeover = case when l.owner = ? then l.takeover else l.owner is not null end
where l.owner = ? or (l.queue is null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)))
returning name, cast(token as text) as token, takeover

-- keepOwn
-- The row has the token that this very transaction was given, so it has written the row, and the file to itself since;
-- a token of a name never comes again. If that was undone with a savepoint, the row has another one.
update "rowlock_locks"
set owner = case when ? is null then owner else ? end,
    expires_at = case when ? is null then expires_at else cast(unixepoch('subsec') * 1000 as integer) + ? end,
    takeover = case when ? is null then takeover else 0 end
where name = ? and token = cast(? as integer)
returning 1 as kept

-- standing
-- Reads, and waits for no writer. What it says may be over at once: a refusal is as good as any moment before it came,
-- and what looks free is judged again by acquire.
select name, case when not (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)) then owner end as owner, holder, queue is not null as awaited
from "rowlock_locks" as l
where name in (select value from json_each(?))

-- enqueue
-- A statement that writes has the file to itself, so places in the queue are given one after the other, and no more
-- than may wait.
update "rowlock_locks" as l
set queue = case
  when l.queue ->> '$[#-1].id' = asked.value ->> 'joins'
    then json_set(l.queue, '$[#-1].n', (l.queue ->> '$[#-1].n') + (asked.value ->> 'count'),
                           '$[#-1].until', max(l.queue ->> '$[#-1].until', cast(unixepoch('subsec') * 1000 as integer) + (asked.value ->> 'waitMs')))
  else json_insert(coalesce(l.queue, '[]'), '$[#]', json_object(
         'id', asked.value ->> 'ticket', 'n', asked.value ->> 'count', 'ttl', asked.value ->> 'ttlMs',
         'holder', asked.value ->> 'holder', 'process', asked.value ->> 'process',
         'until', cast(unixepoch('subsec') * 1000 as integer) + (asked.value ->> 'waitMs')))
  end
from json_each(?) as asked
where l.name = asked.value ->> 'name' and (select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue)) + (asked.value ->> 'count') <= ?
returning queue ->> '$[#-1].id' as ticket,
       name, owner, cast(token as text) as token, holder, takeover, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining,
       (owner is null or expires_at <= cast(unixepoch('subsec') * 1000 as integer)) as free,
       (select json_group_array(value ->> 'id') from json_each(queue)) as tickets

-- waiting
-- Reads, and waits for no writer: why enqueue left somebody out.
select name, (select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue)) as waiters
from "rowlock_locks" as l
where name in (select value from json_each(?))

-- withdraw
-- A statement that writes has the file to itself, and only the ticket with this id is made smaller. If it was handed
-- the lock just before, the answer says so.
update "rowlock_locks" as l
set queue = (
  select nullif(json_group_array(json(case
           when waiting.value ->> 'id' = asked.value ->> 'ticket'
             then json_set(waiting.value, '$.n', (waiting.value ->> 'n') - (asked.value ->> 'count'))
           else waiting.value end)), '[]')
  from json_each(l.queue) as waiting
  where waiting.value ->> 'id' <> asked.value ->> 'ticket' or waiting.value ->> 'n' > asked.value ->> 'count')
from json_each(?) as asked
where l.name = asked.value ->> 'name'
  and (substr(l.owner, 1, 16) = asked.value ->> 'ticket'
       or exists (select 1 from json_each(l.queue) as waiting where waiting.value ->> 'id' = asked.value ->> 'ticket'))
returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining

-- promote
-- A statement that writes has the file to itself: of two who promote the second finds the lock held, and no guarded
-- transaction is open.
with source as materialized (
  select name, owner, owner is not null as takeover,
         case when handed_to is null then queue
              else (select nullif(json_group_array(json(value)), '[]') from json_each(queue)
                    where value ->> 'process' <> handed_to) end as queue
  from "rowlock_locks" as l
  where name in (select value from json_each(?)) and queue is not null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))
),
living as materialized (
  select name, owner, takeover, queue,
         (select key from json_each(queue) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer) limit 1) as first
  from source
), next as materialized (
  select name, owner, takeover,
         queue -> first as ticket,
         case when first = 0 then queue
              when first > 0 then (select json_group_array(json(value)) from json_each(queue) where key >= first)
              end as queue
  from living
)
update "rowlock_locks" as l
set owner = coalesce((next.ticket ->> 'id') || printf('%016x', max(l.token + 1, cast(unixepoch('subsec') * 1000 as integer) * 1000)), next.owner),
    token = case when next.ticket is null then l.token else max(l.token + 1, cast(unixepoch('subsec') * 1000 as integer) * 1000) end,
    expires_at = coalesce(cast(unixepoch('subsec') * 1000 as integer) + min(next.ticket ->> 'ttl', 1000), min(l.expires_at, cast(unixepoch('subsec') * 1000 as integer))),
    holder = coalesce(next.ticket ->> 'holder', l.holder),
    handed_to = next.ticket ->> 'process',
    takeover = case when next.ticket is null then l.takeover else next.takeover end,
    queue = case when next.ticket ->> 'n' > 1 then json_set(next.queue, '$[0].n', (next.ticket ->> 'n') - 1)
                 else nullif(json_remove(next.queue, '$[0]'), '[]') end
from next
where l.name = next.name
returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining

-- held
-- Reads, and waits for no writer: why promote left a lock as it is.
select name
from "rowlock_locks" as l
where name in (select value from json_each(?)) and not (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))

-- release
-- A statement that writes has the file to itself, and hands over in the same moment, so nobody can barge in between. By
-- name, owner and token, so one that comes late or twice finds nothing.
with source as materialized (
  select name, null as owner, 0 as takeover, queue
  from json_each(?) as asked
  join "rowlock_locks" as l on l.name = asked.value ->> 'name'
  where l.owner = asked.value ->> 'owner' and l.token = cast(asked.value ->> 'token' as integer)
),
living as materialized (
  select name, owner, takeover, queue,
         (select key from json_each(queue) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer) limit 1) as first
  from source
), next as materialized (
  select name, owner, takeover,
         queue -> first as ticket,
         case when first = 0 then queue
              when first > 0 then (select json_group_array(json(value)) from json_each(queue) where key >= first)
              end as queue
  from living
)
update "rowlock_locks" as l
set owner = coalesce((next.ticket ->> 'id') || printf('%016x', max(l.token + 1, cast(unixepoch('subsec') * 1000 as integer) * 1000)), next.owner),
    token = case when next.ticket is null then l.token else max(l.token + 1, cast(unixepoch('subsec') * 1000 as integer) * 1000) end,
    expires_at = coalesce(cast(unixepoch('subsec') * 1000 as integer) + min(next.ticket ->> 'ttl', 1000), min(l.expires_at, cast(unixepoch('subsec') * 1000 as integer))),
    holder = coalesce(next.ticket ->> 'holder', l.holder),
    handed_to = next.ticket ->> 'process',
    takeover = case when next.ticket is null then l.takeover else next.takeover end,
    queue = case when next.ticket ->> 'n' > 1 then json_set(next.queue, '$[0].n', (next.ticket ->> 'n') - 1)
                 else nullif(json_remove(next.queue, '$[0]'), '[]') end
from next
where l.name = next.name
returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining

-- releaseIn
-- In the caller's transaction, which has the file to itself from here to its end, so nobody has the lock before the
-- commit. By name, owner and token.
update "rowlock_locks"
set owner = null, handed_to = null, expires_at = min(expires_at, cast(unixepoch('subsec') * 1000 as integer))
where name = ? and owner = ? and token = cast(? as integer)
returning queue is not null as awaited

-- renew
-- A statement that writes has the file to itself. By name, owner, token and expiry, so nothing is revived, or renewed
-- for who lost it; it never shortens, so a late one does no harm.
update "rowlock_locks" as l
set expires_at = max(l.expires_at, cast(unixepoch('subsec') * 1000 as integer) + asked.value ->> 'ttlMs'), handed_to = null
from json_each(?) as asked
where l.name = asked.value ->> 'name'
  and l.owner = asked.value ->> 'owner'
  and l.token = cast(asked.value ->> 'token' as integer)
  and l.expires_at > cast(unixepoch('subsec') * 1000 as integer)
returning name, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining

-- guard
-- In the caller's transaction: changes nothing, but is a write, so from here to its end nobody else writes to the file,
-- and nobody takes any lock. After a takeover there is no row of this owner and token.
update "rowlock_locks" as l
set expires_at = l.expires_at
from json_each(?) as asked
where l.name = asked.value ->> 'name'
  and l.owner = asked.value ->> 'owner'
  and l.token = cast(asked.value ->> 'token' as integer)
  and l.expires_at > cast(unixepoch('subsec') * 1000 as integer)
returning name

-- poll
-- Reads, and waits for no writer. What it says may be over at once: promote and acquire judge again.
select
       name, owner, cast(token as text) as token, holder, takeover, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining,
       (owner is null or expires_at <= cast(unixepoch('subsec') * 1000 as integer)) as free,
       (select json_group_array(value ->> 'id') from json_each(queue)) as tickets
from "rowlock_locks"
where name in (select value from json_each(?))

-- list
-- Reads, and waits for no writer. What it says may be over at once, and is for people.
select name, owner, cast(token as text) as token, holder, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining, (select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue)) as waiters
from "rowlock_locks" as l
where substr(name, 1, length(?)) = ? and not (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))
order by name

-- inspect
-- Reads, and waits for no writer. What it says may be over at once, and is for people.
select name, owner, cast(token as text) as token, holder, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining, (select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue)) as waiters
from "rowlock_locks" as l
where name = ? and not (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))

-- forceRelease
-- A statement that writes has the file to itself, so no guarded transaction is open. The token rises: what the former
-- holder still sends, a guard or a release, finds nothing.
update "rowlock_locks" as l
set owner = null, handed_to = null, token = max(token + 1, cast(unixepoch('subsec') * 1000 as integer) * 1000), expires_at = cast(unixepoch('subsec') * 1000 as integer)
where name = ? and not (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))
returning 1 as forced

-- purge
-- A statement that writes has the file to itself: who takes one of these locks does so before, and its row stays, or
-- after, and creates one. That has the clock for a token, which is above those of all rows that go.
delete from "rowlock_locks"
where expires_at <= cast(unixepoch('subsec') * 1000 as integer) - ? and token < cast(unixepoch('subsec') * 1000 as integer) * 1000
  and not exists (select 1 from json_each(queue) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))
returning 1 as purged

-- changingFile
-- Reads what this connection has open, and no table.
select file, journal_mode
from pragma_database_list, pragma_journal_mode
where name = 'main'

-- What is not compiled but written where it is sent; several texts in turn are parted by semicolons.

-- assess
-- Reads settings, before the first lock, and waits for no writer.
select (select synchronous from pragma_synchronous) as synchronous,
       (select journal_mode from pragma_journal_mode) as journal_mode,
       (select file from pragma_database_list where name = 'main') as file
;
select name from "rowlock_migrations" where name like 'protocol %'

-- assertOpen
-- In the caller's transaction: fails if it is over, and else does nothing.
select 1

-- migrate
-- BEGIN IMMEDIATE has the file to itself until the commit, so those who migrate take turns. Before `commit`: the
-- migrations that have not run.
begin immediate
;
create table if not exists "rowlock_migrations" (name text not null primary key)
;
select name from "rowlock_migrations"
;
commit
