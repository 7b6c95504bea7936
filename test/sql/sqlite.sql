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
    takeover = case when l.owner = excluded.owner then l.takeover else l.owner is not null or l.shares is not null end,
    shares = null
where l.owner = excluded.owner or (l.queue is null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)) and (l.shares is null or not exists (select 1 from json_each(l.shares) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))) and l.permits is null)
returning name, cast(token as text) as token, takeover,
          exists (select 1 from "rowlock_marks" as m where m.kind = 'checkpoint' and m.name = "rowlock_locks".name) as checkpointed

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
    takeover = case when l.owner = ? then l.takeover else l.owner is not null or l.shares is not null end,
    shares = null
where l.owner = ? or (l.queue is null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)) and (l.shares is null or not exists (select 1 from json_each(l.shares) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))) and l.permits is null)
returning name, cast(token as text) as token, takeover,
          exists (select 1 from "rowlock_marks" as m where m.kind = 'checkpoint' and m.name = "rowlock_locks".name) as checkpointed

-- keepOwn
-- The row has the token that this very transaction was given, so it has written the row, and the file to itself since;
-- a token of a name never comes again. If that was undone with a savepoint, the row has another one.
update "rowlock_locks"
set owner = case when ? is null then owner else ? end,
    expires_at = case when ? is null then expires_at else cast(unixepoch('subsec') * 1000 as integer) + ? end,
    takeover = case when ? is null then takeover else 0 end
where name = ? and token = cast(? as integer)
returning 1 as kept

-- enqueue
-- A statement that writes has the file to itself, so places in the queue are given one after the other, and no more
-- than may wait.
update "rowlock_locks" as l
set queue = case
  when l.queue ->> '$[#-1].id' = asked.value ->> 'joins'
    then json_set(l.queue, '$[#-1].n', (l.queue ->> '$[#-1].n') + (asked.value ->> 'count'),
                           '$[#-1].until', max(l.queue ->> '$[#-1].until', cast(unixepoch('subsec') * 1000 as integer) + (asked.value ->> 'waitMs')))
  else json_insert(coalesce(l.queue, '[]'), '$[#]', json_object(
         'id', asked.value ->> 'ticket', 'n', asked.value ->> 'count', 'weight', asked.value ->> 'weight',
         'ttl', asked.value ->> 'ttlMs', 'holder', asked.value ->> 'holder',
         'process', asked.value ->> 'process', 'since', cast(unixepoch('subsec') * 1000 as integer), 'until', cast(unixepoch('subsec') * 1000 as integer) + (asked.value ->> 'waitMs')))
  end
from json_each(?) as asked
where l.name = asked.value ->> 'name' and (select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue)) + (asked.value ->> 'count') <= ?
  and case when l.permits is null then asked.value ->> 'permits' is null
           else asked.value ->> 'permits' is not null and asked.value ->> 'weight' <= l.permits end
returning name, queue ->> '$[#-1].id' as ticket, case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end as stored, cast(unixepoch('subsec') * 1000 as integer) as now

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
       or exists (select 1 from json_each(l.shares) where substr(value ->> 'owner', 1, 16) = asked.value ->> 'ticket')
       or exists (select 1 from json_each(l.queue) as waiting where waiting.value ->> 'id' = asked.value ->> 'ticket'))
returning name, case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end as stored, cast(unixepoch('subsec') * 1000 as integer) as now

-- promote
-- A statement that writes has the file to itself: of two who promote the second finds the lock held, and no guarded
-- transaction is open. What is shared, or is to be, it leaves to read and write.
with source as materialized (
  select name, owner, owner is not null as takeover,
         case when handed_to is null then queue
              else (select nullif(json_group_array(json(value)), '[]') from json_each(queue)
                    where value ->> 'process' <> handed_to) end as queue
  from "rowlock_locks" as l
  where name in (select value from json_each(?)) and queue is not null and (l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer))
    and shares is null and permits is null
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
where l.name = next.name and next.ticket ->> 'weight' is null
returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - cast(unixepoch('subsec') * 1000 as integer) as remaining

-- release
-- A statement that writes has the file to itself, and hands over in the same moment, so nobody can barge in between. By
-- name, owner and token, so one that comes late or twice finds nothing. Those who would share the lock are left to read
-- and write.
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
where l.name = next.name and next.ticket ->> 'weight' is null
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

-- guardShared
-- As guard: a write that changes nothing, after which nobody else writes until the transaction ends. What it tells of
-- the rows is true until then, so the holds are looked for in that.
update "rowlock_locks" as l
set expires_at = l.expires_at
where name in (select value from json_each(?))
returning name, case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end as stored, cast(unixepoch('subsec') * 1000 as integer) as now

-- adoptIn
-- In the caller's transaction, which has the file to itself from here to its end: nobody takes any lock meanwhile, so
-- the hold counts though it has ended. After a rollback it is what it was.
update "rowlock_locks" as l
set expires_at = max(l.expires_at, (select min(value ->> 'until', cast(unixepoch('subsec') * 1000 as integer)) from json_each(l.shares) where value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text))),
    shares = (select nullif(json_group_array(json(value)), '[]') from json_each(l.shares) where not (value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text)))
where name = ? and exists (select 1 from json_each(l.shares) where value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text) and value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))
returning queue is not null as awaited

-- releaseSharedIn
-- In the caller's transaction, which has the file to itself from here to its end, so nobody has the lock before the
-- commit. By name, slot, owner and token.
update "rowlock_locks" as l
set expires_at = max(l.expires_at, (select min(value ->> 'until', cast(unixepoch('subsec') * 1000 as integer)) from json_each(l.shares) where value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text))),
    shares = (select nullif(json_group_array(json(value)), '[]') from json_each(l.shares) where not (value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text)))
where name = ? and exists (select 1 from json_each(l.shares) where value ->> 'slot' = ? and value ->> 'owner' = ? and value ->> 'token' = cast(? as text) and true)
returning queue is not null as awaited

-- read
-- Reads, and waits for no writer. What it says may be over at once: what is refused by it was so a moment ago, and what
-- is granted by it is written by acquire, which judges again, or by write.
select asked.value as asked, case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end as stored, cast(unixepoch('subsec') * 1000 as integer) as now
from json_each(?) as asked
left join "rowlock_locks" as l on l.name = asked.value

-- write
-- A statement that writes has the file to itself, and it writes a row only if all of it is as it was when read: of two
-- who read the same the second writes nothing, and reads again. A decision that is late is of the moment of its read,
-- since when nobody has changed the row. If a guarded transaction was open meanwhile, it has ended.
insert into "rowlock_locks"
       (name, owner, token, expires_at, holder, handed_to, takeover, permits, shares, queue)
select asked.value ->> 'name', asked.value ->> 'owner', cast(asked.value ->> 'token' as integer),
       asked.value ->> 'expiresAt', asked.value ->> 'holder', asked.value ->> 'handedTo',
       asked.value ->> 'takeover', asked.value ->> 'permits', asked.value ->> 'shares', asked.value ->> 'queue'
from json_each(?) as asked
left join "rowlock_locks" as l on l.name = asked.value ->> 'name'
where case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end is asked.value ->> 'seen'
on conflict (name) do update
set owner = excluded.owner,
    token = excluded.token,
    expires_at = excluded.expires_at,
    holder = excluded.holder,
    handed_to = excluded.handed_to,
    takeover = excluded.takeover,
    permits = excluded.permits,
    shares = excluded.shares,
    queue = excluded.queue
returning name

-- list
-- Reads, and waits for no writer. What it says may be over at once, and is for people.
select case when name is not null then json_object(
         'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
         'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end as stored, cast(unixepoch('subsec') * 1000 as integer) as now
from "rowlock_locks" as l
where substr(name, 1, length(?)) = ? and not ((l.owner is null or l.expires_at <= cast(unixepoch('subsec') * 1000 as integer)) and (l.shares is null or not exists (select 1 from json_each(l.shares) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))))
order by name

-- purge
-- A statement that writes has the file to itself: who takes one of these locks does so before, and its row stays, or
-- after, and creates one. That has the clock for a token, which is above those of all rows that go.
delete from "rowlock_locks"
where expires_at <= cast(unixepoch('subsec') * 1000 as integer) - ? and token < cast(unixepoch('subsec') * 1000 as integer) * 1000
  and not exists (select 1 from json_each(queue) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer))
  and not exists (select 1 from json_each(shares) where value ->> 'until' > cast(unixepoch('subsec') * 1000 as integer) - ?)
returning 1 as purged

-- publishWaits
-- A statement that writes has the file to itself. It writes the row of this process, and grants nothing.
insert into "rowlock_waits" (process, said_at, waits) values (?, cast(unixepoch('subsec') * 1000 as integer), ?)
on conflict (process) do update set said_at = excluded.said_at, waits = excluded.waits

-- withdrawWaits
-- As publishWaits.
delete from "rowlock_waits" where process = ?

-- waitsOfOthers
-- Reads, and waits for no writer. What others say just after is read the next time, and it grants nothing.
select cast(unixepoch('subsec') * 1000 as integer) as now, w.process, w.said_at, w.waits
from (select 1) as one
left join "rowlock_waits" as w on w.process <> ? and w.said_at > cast(unixepoch('subsec') * 1000 as integer) - 2000

-- purgeWaits
-- A statement that writes has the file to itself. A process whose row goes just before it writes makes another one.
delete from "rowlock_waits" where said_at <= cast(unixepoch('subsec') * 1000 as integer) - 60000

-- readMarks
-- Reads, and waits for no writer. What is written just after is read the next time.
select cast(unixepoch('subsec') * 1000 as integer) as now, m.kind, m.name, m.part, m.value, cast(m.token as text) as token
from (select 1) as one
left join "rowlock_marks" as m
  on m.kind = ? and m.name in (select value from json_each(?))
  and (m.expires_at is null or m.expires_at > cast(unixepoch('subsec') * 1000 as integer))

-- writeMarkUnder
-- A statement that writes has the file to itself, so the hold stands when the mark is committed. One with a higher
-- token stays.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at)
select
  ?, ?, ?, ?, cast(? as integer), cast(unixepoch('subsec') * 1000 as integer), cast(unixepoch('subsec') * 1000 as integer) + cast(? as integer)
from "rowlock_locks" as l
where l.name = ? and l.owner = ? and l.token = cast(? as integer) and l.expires_at > cast(unixepoch('subsec') * 1000 as integer)
on conflict (kind, name, part) do update
set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
where m.token <= excluded.token
returning 1 as written

-- writeMark
-- A statement that writes has the file to itself. A mark with a higher token stays.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  ?, ?, ?, ?, cast(? as integer), cast(unixepoch('subsec') * 1000 as integer), cast(unixepoch('subsec') * 1000 as integer) + cast(? as integer))
on conflict (kind, name, part) do update
set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
where m.token <= excluded.token

-- deleteMark
-- As writeMark.
delete from "rowlock_marks"
where kind = ? and name = ? and part = ? and token <= cast(? as integer)

-- beginMark
-- In a transaction that has written, and so has the file to itself.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  ?, ?, ?, ?, cast(? as integer), cast(unixepoch('subsec') * 1000 as integer), cast(unixepoch('subsec') * 1000 as integer) + cast(? as integer))
on conflict (kind, name, part) do update
set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
where m.expires_at <= cast(unixepoch('subsec') * 1000 as integer)
returning 1 as begun

-- writeMarkIn
-- As beginMark.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  ?, ?, ?, ?, cast(? as integer), cast(unixepoch('subsec') * 1000 as integer), cast(unixepoch('subsec') * 1000 as integer) + cast(? as integer))
on conflict (kind, name, part) do update
set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at

-- purgeMarks
-- A statement that writes has the file to itself.
delete from "rowlock_marks"
where expires_at <= cast(unixepoch('subsec') * 1000 as integer)
   or kind = 'checkpoint' and written_at <= cast(unixepoch('subsec') * 1000 as integer) - ?
      and not exists (select 1 from "rowlock_locks" as l where l.name = "rowlock_marks".name)

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
