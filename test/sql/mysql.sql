-- MySQL and MariaDB: what the database gets, by the names that statements have in src/engines/mysql.
-- Written by `npm run sql`, with the reasons from reasons.ts.

-- acquire
-- Free rows are locked FOR UPDATE SKIP LOCKED in a derived table, which the LIMIT keeps apart, and judged as locked: of
-- two who come at once one skips the row, and so does everybody while a guard has it. The join then finds by the
-- primary key what is locked already.
update (
  select l.name, asked.owner, asked.ttl, asked.holder, asked.session,
         case when l.owner = asked.owner then l.token else greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) end as next_token,
         case when l.owner = asked.owner then l.takeover else l.owner is not null end as takeover, l.checkpointed
  from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.owner = asked.owner
     or l.queue is null and l.used = 0 and l.permits is null and (l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or l.session = asked.deadSession)
  limit 1000
  for update skip locked
) as free
straight_join `rowlock_locks` as l force index (primary) on l.name = free.name
set l.owner = case when free.ttl is not null then free.owner end,
    l.token = free.next_token,
    l.expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + coalesce(free.ttl, 0) * 1000
      + 0 * last_insert_id((1 - free.checkpointed) * case when free.takeover = 1 then -free.next_token else free.next_token end),
    l.holder = free.holder, l.session = free.session, l.handed_to = null, l.takeover = free.takeover
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession union all select ?, ?, ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- create
-- The primary key decides who creates the row: who comes second changes nothing, and sets last_insert_id() to 0. It
-- waits only for a transaction that has created the row, or locked it, since it was found missing: MySQL has no NOWAIT
-- for an INSERT, and statementTimeout ends the caller's wait.
insert into `rowlock_locks` (name, owner, token, expires_at, holder, session)
select asked.name, asked.owner, last_insert_id(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + asked.ttl * 1000, asked.holder, asked.session
from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession limit 1) as asked
on duplicate key update token = token + 0 * last_insert_id(0)
-- Of two:
from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession union all select ?, ?, ?, ?, ?, ? limit 2) as asked

-- createInMariadb
-- As create, with a limit of its own: it waits for a second at most, and then somebody else has the row.
set statement innodb_lock_wait_timeout=1 for
insert into `rowlock_locks` (name, owner, token, expires_at, holder, session)
select asked.name, asked.owner, last_insert_id(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + asked.ttl * 1000, asked.holder, asked.session
from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession limit 1) as asked
on duplicate key update token = token + 0 * last_insert_id(0)
-- Of two:
set statement undefined for
from (select ? as name, ? as owner, ? as ttl, ? as holder, ? as session, ? as deadSession union all select ?, ?, ?, ?, ?, ? limit 2) as asked

-- createFree
-- Makes a row that nobody holds, and leaves one that is there as it was, so it grants nothing whoever comes first. It
-- waits only for a transaction that has begun to create the row just before: for a second at most on rowlock's own
-- connection, and in the caller's transaction for as long as the session's settings say.
insert into `rowlock_locks` (name, token, expires_at) values (?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
on duplicate key update token = token

-- createFreeInMariadb
-- As createFree, with a limit of its own: on another connection than the transaction it waits for nobody.
set statement innodb_lock_wait_timeout=0 for
insert into `rowlock_locks` (name, token, expires_at) values (?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
on duplicate key update token = token

-- lockRowNow
-- Commits at once, so its lock lasts for no longer than the statement. NOWAIT: that a transaction has the row is an
-- error of this statement. One that creates the row just after it is what createFree waits for.
select 1 from `rowlock_locks` force index (primary) where name = ? for update nowait

-- takeRowInMariadb
-- In the caller's transaction: waits for the row as long as the limits in front of it say, which end the statement
-- alone, judges it as locked, and keeps it until the transaction ends. A lease that came first stays, and then the
-- transaction is aborted, since it may have the row locked.
set statement max_statement_time=2.5, innodb_lock_wait_timeout=3600 for
update `rowlock_locks` as l
set token = last_insert_id(case when owner = ? then token else greatest(token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) end),
    owner = case when ? is not null then ? end,
    holder = ?, session = null, handed_to = ?, takeover = 0,
    expires_at = coalesce(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000, least(expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))))
where name = ?
  and (owner is null or owner = ? or expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or session = ?) and l.used = 0 and l.permits is null

-- takeRow
-- In the caller's transaction, after lockRow, so that it waits for nobody: what it judges is locked by this
-- transaction. A lease that came first stays, and then the transaction is aborted, since it has the row locked.
update `rowlock_locks` as l
set token = last_insert_id(case when owner = ? then token else greatest(token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) end),
    owner = case when ? is not null then ? end,
    holder = ?, session = null, handed_to = ?, takeover = 0,
    expires_at = coalesce(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000, least(expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))))
where name = ?
  and (owner is null or owner = ? or expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or session = ?) and l.used = 0 and l.permits is null

-- takeRowNow
-- In the caller's transaction, FOR UPDATE NOWAIT: a row that somebody has is an error of this statement, and waited for
-- by lockRow. SKIP LOCKED would go on and lock the gap behind. What is free is judged as locked, and kept until the
-- transaction ends.
update (
  select name, case when owner = ? then token else greatest(token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) end as next_token
  from `rowlock_locks` as l force index (primary)
  where name = ?
    and (owner is null or owner = ? or expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or session = ?) and l.used = 0 and l.permits is null
  limit 1
  for update nowait
) as free
straight_join `rowlock_locks` as l force index (primary) on l.name = free.name
set l.token = free.next_token,
    l.owner = case when ? is not null then ? end,
    l.holder = ?, l.session = null, l.handed_to = ?, l.takeover = 0,
    l.expires_at = coalesce(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000, least(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))) + 0 * last_insert_id(free.next_token)

-- takeFree
-- In the caller's transaction. Rows are locked FOR UPDATE NOWAIT in a derived table, in the order of names, so it waits
-- for nobody, and judged as locked; a transaction that has one of them ends the statement, which leaves those before
-- locked, as they would have been anyway. A lease that came after the look from outside makes it change fewer rows than
-- asked, or is seen by another look if the statement was ended: its row may be locked, which aborts the transaction.
update (
  select l.name, asked.holder, asked.mark, greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as next_token
  from (select ? as name, ? as holder, ? as deadSession, ? as mark limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where (l.owner is null or l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or l.session = asked.deadSession) and l.used = 0 and l.permits is null
  limit 1000
  for update nowait
) as free
straight_join `rowlock_locks` as l force index (primary) on l.name = free.name
set l.token = free.next_token, l.owner = null, l.holder = free.holder, l.session = null, l.handed_to = free.mark,
    l.takeover = 0, l.expires_at = least(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as holder, ? as deadSession, ? as mark union all select ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- tokens
-- In the caller's transaction: reads rows that it has locked and changed, by their keys, so it waits for nobody, and
-- sees nothing but its own.
select l.name, l.token from (select ? as name limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name limit 1000 for update
-- Of two:
select l.name, l.token from (select ? as name union all select ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name limit 1000 for update

-- lockRowsNow
-- Of names that had no row: NOWAIT, so it waits for nobody, and locks what it finds for the length of the statement. It
-- tells whether an open transaction is creating one of them, for which the INSERT after it would wait.
select 1 from (select ? as name limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name limit 1000 for update nowait
-- Of two:
select 1 from (select ? as name union all select ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name limit 1000 for update nowait

-- createAllFree
-- Creates free rows, in the order of names, and gives nobody a lock. Where a row has come in between it changes
-- nothing, but may wait for a transaction that has locked that one meanwhile, as createFree.
insert into `rowlock_locks` (name, token, expires_at)
select asked.name, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) from (select ? as name limit 1) as asked
on duplicate key update token = token
-- Of two:
select asked.name, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) from (select ? as name union all select ? limit 2) as asked

-- lockRow
-- In the caller's transaction: waits for the row for as long as the hint says, which ends this statement alone, and
-- keeps it until the transaction ends. takeRow judges it.
select /*+ MAX_EXECUTION_TIME(2500) */ token from `rowlock_locks` force index (primary) where name = ? for update

-- ownHold
-- In the caller's transaction: waits for nobody. The row of a hold that stands is locked by this transaction; of one
-- that was rolled back, the row is somebody else's, and NOWAIT makes that an error of this statement alone, or
-- nobody's, and then it is taken next.
select token from `rowlock_locks` force index (primary)
where name = ? and token = ? and handed_to = ?
for update nowait

-- ownHoldInMariadb
-- As ownHold, by a limit in front of it, since NOWAIT would be the error that may roll back the transaction there.
set statement innodb_lock_wait_timeout=0 for
select token from `rowlock_locks` force index (primary)
where name = ? and token = ? and handed_to = ?
for update

-- keepAsLease
-- In the caller's transaction, which has the row locked (ownHold): what it writes begins with the commit, and nobody
-- can be given the lock before.
update `rowlock_locks`
set expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000, owner = ?
where name = ? and token = ? and handed_to = ?

-- closeGates
-- Grants nothing: a gate is about fairness. It waits for whoever closes or opens the same gates, for the length of such
-- a statement, and takes them in the order of names, so not in a circle.
insert into `rowlock_gates` (name, closed_until, closed_by)
select asked.name, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 1000 * 1000, asked.closer from (select ? as name, ? as closer limit 1) as asked
on duplicate key update closed_until = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 1000 * 1000, closed_by = asked.closer
-- Of two:
select asked.name, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 1000 * 1000, asked.closer from (select ? as name, ? as closer union all select ?, ? limit 2) as asked

-- openGates
-- Opens what was closed by the same closing only, so a gate that somebody else has closed since stays closed. It waits
-- for the length of a statement at most, in the order of names.
update (select ? as name, ? as closer limit 1) as asked straight_join `rowlock_gates` as g force index (primary) on g.name = asked.name
set g.closed_until = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
where g.closed_by = asked.closer
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (select ? as name, ? as closer union all select ?, ? limit 2) as asked straight_join `rowlock_gates` as g force index (primary) on g.name = asked.name

-- enqueue
-- The row is locked FOR UPDATE SKIP LOCKED in a derived table, and its queue read as locked, so places are given one
-- after the other, and no more than may wait. A row that is locked is asked for again.
update (
  select place.*, coalesce(json_value(place.last, '$.id') = place.joins, 0) as joined
  from (
    select asked.*, coalesce(json_length(l.queue), 0) as length,
           cast(json_extract(l.queue, concat('$[', json_length(l.queue) - 1, ']')) as char(1000)) as last
    from (select ? as name, ? as ticket, ? as joins, ? as count, ? as weight, ? as permits, ? as ttl, ? as holder, ? as session, ? as process, ? as transaction, ? as wait, ? as most limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
    where coalesce(
      (select sum(ticket.n) from json_table(l.queue, '$[*]' columns (n int path '$.n')) as ticket), 0) + asked.count <= asked.most and (l.permits is null) = (asked.permits is null)
      and case when l.permits is null then coalesce(asked.weight, 1) >= 1
               else asked.weight between 1 and l.permits end
    limit 1000
    for update skip locked
  ) as place
) as place
straight_join `rowlock_locks` as l force index (primary) on l.name = place.name
set l.queue = json_set(
  coalesce(l.queue, json_array()),
  concat('$[', place.length - place.joined, ']'),
  json_object(
    'id', convert(case when place.joined then place.joins else place.ticket end using utf8mb4),
    'n', cast(place.count + place.joined * coalesce(json_value(place.last, '$.n'), 0) as signed),
    'weight', cast(place.weight as signed),
    'ttl', cast(place.ttl as signed),
    'since', coalesce(
      case when place.joined = 1 then cast(json_value(place.last, '$.since') as signed) end, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))),
    'until', greatest(
      cast(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + place.wait * 1000 as signed),
      place.joined * cast(coalesce(json_value(place.last, '$.until'), 0) as signed)),
    'holder', hex(place.holder),
    'session', hex(place.session),
    'process', hex(place.process),
    'transaction', place.transaction,
    'change', convert(place.ticket using utf8mb4)))
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
    from (select ? as name, ? as ticket, ? as joins, ? as count, ? as weight, ? as permits, ? as ttl, ? as holder, ? as session, ? as process, ? as transaction, ? as wait, ? as most union all select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- withdraw
-- The row is locked FOR UPDATE SKIP LOCKED in a derived table, and only the ticket with this id is made smaller, at the
-- place where it is then. A row that is locked is asked for again.
update (
  select asked.name, asked.count, asked.changeId, cast(substring_index(json_unquote(
           json_search(l.queue, 'one', convert(asked.ticket using utf8mb4), null, '$[*].id')), '.', 1) as char(30)) as path
  from (select ? as name, ? as ticket, ? as count, ? as changeId limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  limit 1000
  for update skip locked
) as place
straight_join `rowlock_locks` as l force index (primary) on l.name = place.name
set l.queue = case
  when json_extract(l.queue, concat(place.path, '.n')) > place.count
    then json_set(l.queue, concat(place.path, '.n'),
                  cast(json_extract(l.queue, concat(place.path, '.n')) - place.count as signed),
                  concat(place.path, '.change'), convert(place.changeId using utf8mb4))
  when json_length(l.queue) > 1 then json_remove(l.queue, place.path) end
where place.path is not null
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as ticket, ? as count, ? as changeId union all select ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- changes
-- Reads, and locks no row: what became of enqueue and withdraw. Others may have changed the queue in between; the
-- ticket's last change, or the hold that it has become, still tells.
select
  l.name, coalesce(
  (select max(1 - ticket.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as ticket), 0) = 1
  or exists (select 1 from `rowlock_gates` as g where g.name = l.name and g.closed_until > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) / 1000 as remaining,
  case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
  l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as tickets, l.used,
  coalesce(l.permits, 0) as permits, l.checkpointed, cast(json_extract(l.queue, '$[*].change') as char) as changes, coalesce(
  (select sum(ticket.n) from json_table(l.queue, '$[*]' columns (n int path '$.n')) as ticket), 0) as waiters
from `rowlock_locks` as l
where l.name in (?)
limit 1000
-- Of two:
where l.name in (?, ?)

-- promote
-- Rows that nobody holds are locked FOR UPDATE SKIP LOCKED in a derived table and judged as locked: of two who promote
-- one finds the row locked, or held by then, and under an open guard it is skipped. A first ticket that is dead, or
-- that shares, is left to a step (change).
update (
  select l.name, l.token, greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as next_token, l.owner is not null as takeover,
         l.queue is not null as awaited,
         case when cast(json_value(l.queue, '$[0].until') as signed) > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and json_value(l.queue, '$[0].weight') is null
              then cast(json_extract(l.queue, '$[0]') as char(1000)) end as heir
  from (select ? as name limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and cast(json_value(l.queue, '$[0].until') as signed) > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and json_value(l.queue, '$[0].weight') is null and l.used = 0 and l.permits is null
     and (l.owner is null or l.handed_to is null)
  limit 1000
  for update skip locked
) as freed
straight_join `rowlock_locks` as l force index (primary) on l.name = freed.name
set l.owner = case when freed.heir is not null
                   then concat(json_value(freed.heir, '$.id'), lpad(lower(hex(freed.next_token)), 16, '0')) end,
    l.token = case when freed.heir is null then freed.token else freed.next_token end,
    l.expires_at = case when freed.heir is null then least(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
        else timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 1000 * least(cast(json_value(freed.heir, '$.ttl') as signed), 1000) end
      + 0 * case when freed.heir is not null then last_insert_id(freed.next_token)
                 when freed.awaited = 1 then last_insert_id(-freed.token)
                 else 0 end,
    l.holder = unhex(json_value(freed.heir, '$.holder')),
    l.session = unhex(json_value(freed.heir, '$.session')),
    l.handed_to = unhex(json_value(freed.heir, '$.process')),
    l.takeover = freed.takeover,
    l.queue = case when freed.heir is null then l.queue
                   when json_value(freed.heir, '$.n') > 1
                     then json_set(l.queue, '$[0].n', cast(json_value(freed.heir, '$.n') - 1 as signed))
                   when json_length(l.queue) > 1 then json_remove(l.queue, '$[0]') end
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name union all select ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- release
-- Rows of this name, owner and token, for which nobody waits, are locked FOR UPDATE SKIP LOCKED in a derived table. One
-- that comes late or twice finds nothing; where somebody has queued just before, handOver follows.
update (
  select l.name
  from (select ? as name, ? as owner, ? as token limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.owner = asked.owner and l.token = asked.token and l.queue is null
  limit 1000
  for update skip locked
) as mine
straight_join `rowlock_locks` as l force index (primary) on l.name = mine.name
set l.owner = null, l.session = null, l.handed_to = null, l.expires_at = least(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as token union all select ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- handOver
-- Rows of this name, owner and token are locked FOR UPDATE SKIP LOCKED in a derived table, and handed to the first in
-- their queues in the same statement: nobody can barge in between. If the first is dead, or shares, the lock is free,
-- but with a queue, so that only promote gives it away.
update (
  select l.name, l.token, greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as next_token, 0 as takeover,
         l.queue is not null as awaited,
         case when cast(json_value(l.queue, '$[0].until') as signed) > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and json_value(l.queue, '$[0].weight') is null
              then cast(json_extract(l.queue, '$[0]') as char(1000)) end as heir
  from (select ? as name, ? as owner, ? as token limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.owner = asked.owner and l.token = asked.token
  limit 1000
  for update skip locked
) as freed
straight_join `rowlock_locks` as l force index (primary) on l.name = freed.name
set l.owner = case when freed.heir is not null
                   then concat(json_value(freed.heir, '$.id'), lpad(lower(hex(freed.next_token)), 16, '0')) end,
    l.token = case when freed.heir is null then freed.token else freed.next_token end,
    l.expires_at = case when freed.heir is null then least(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
        else timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 1000 * least(cast(json_value(freed.heir, '$.ttl') as signed), 1000) end
      + 0 * case when freed.heir is not null then last_insert_id(freed.next_token)
                 when freed.awaited = 1 then last_insert_id(-freed.token)
                 else 0 end,
    l.holder = unhex(json_value(freed.heir, '$.holder')),
    l.session = unhex(json_value(freed.heir, '$.session')),
    l.handed_to = unhex(json_value(freed.heir, '$.process')),
    l.takeover = freed.takeover,
    l.queue = case when freed.heir is null then l.queue
                   when json_value(freed.heir, '$.n') > 1
                     then json_set(l.queue, '$[0].n', cast(json_value(freed.heir, '$.n') - 1 as signed))
                   when json_length(l.queue) > 1 then json_remove(l.queue, '$[0]') end
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as token union all select ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- releaseIn
-- In the caller's transaction. It waits for a statement that has the row, bounded by the caller's settings, and finds
-- it by name, owner and token then; from then until the commit all others find the row locked, so nobody has the lock
-- before.
update `rowlock_locks`
set owner = null, session = null, handed_to = null,
    expires_at = least(expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
      + 0 * last_insert_id(case when queue is null then token else -token end)
where name = ? and owner = ? and token = ?

-- releaseSlotIn
-- In the caller's transaction: the slot by its whole key, which nobody else can lock until it ends; so what the hold
-- takes counts until then, and is taken off by a later step that finds the slot ended. It waits for a statement that
-- has the slot, bounded by the caller's settings.
update `rowlock_slots`
set owner = null, session = null, handed_to = null, expires_at = least(expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
where name = ? and slot = ? and owner = ? and token = ?

-- adoptIn
-- As releaseSlotIn, if the hold has not run out: it has ended after the commit, is what it was after a rollback, and
-- counts until either, whatever its expiry says. Its write takes part in the certification of a cluster.
update `rowlock_slots`
set owner = null, session = null, handed_to = null, expires_at = least(expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))
where name = ? and slot = ? and owner = ? and token = ? and expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))

-- awaited
-- A plain read of a row that this transaction has changed, and so has locked; an arrival after the commit is seen by
-- its own look.
select queue is not null as awaited from `rowlock_locks` where name = ?

-- renew
-- Rows of this name, owner and token that have not run out are locked FOR UPDATE SKIP LOCKED in a derived table and
-- judged as locked: nothing is revived, or renewed for who lost it. It never shortens, so a late one does no harm. A
-- row that a guard has is answered as held.
update (
  select asked.name, greatest(l.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), asked.ttl * 1000) as remaining
  from (select ? as name, ? as owner, ? as token, ? as ttl limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.owner = asked.owner and l.token = asked.token and l.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
  limit 1000
  for update skip locked
) as mine
straight_join `rowlock_locks` as l force index (primary) on l.name = mine.name
set l.expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + last_insert_id(mine.remaining), l.handed_to = null
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as token, ? as ttl union all select ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- renewSlots
-- As renew, of slots by their whole keys, so no other slot is touched, and no gap. The lock's row is left alone:
-- whoever takes off what has run out has the slot locked, and judges it as locked.
update (
  select asked.name, asked.slot, greatest(s.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), asked.ttl * 1000) as remaining
  from (select ? as name, ? as owner, ? as token, ? as slot, ? as ttl limit 1) as asked straight_join `rowlock_slots` as s force index (primary)
    on s.name = asked.name and s.slot = asked.slot
  where s.owner = asked.owner and s.token = asked.token and s.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
  limit 1000
  for update skip locked
) as mine
straight_join `rowlock_slots` as s force index (primary) on s.name = mine.name and s.slot = mine.slot
set s.expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + last_insert_id(mine.remaining), s.handed_to = null
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as token, ? as slot, ? as ttl union all select ?, ?, ?, ?, ? limit 2) as asked straight_join `rowlock_slots` as s force index (primary)

-- guard
-- In the caller's transaction: writes the row, which nobody else can lock until it ends, and which takes part in the
-- certification of a cluster. It waits for whoever has the rows, in the order of names, bounded by the caller's
-- settings; after a takeover there is no row of this owner and token.
update (select ? as name, ? as owner, ? as token, ? as ttl limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
set l.expires_at = greatest(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + asked.ttl * 1000) + 0 * last_insert_id(l.token),
    l.handed_to = null
where l.owner = asked.owner and l.token = asked.token and l.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (select ? as name, ? as owner, ? as token, ? as ttl union all select ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- guardSlots
-- As guard, of slots by their whole keys: guards of others that share the lock have slots of their own. A step that
-- would take off what has run out finds the slot locked, and counts it. They are waited for in the order of names and
-- slots.
update (select ? as name, ? as owner, ? as token, ? as slot, ? as ttl limit 1) as asked straight_join `rowlock_slots` as s force index (primary)
    on s.name = asked.name and s.slot = asked.slot
set s.expires_at = greatest(s.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + asked.ttl * 1000) + 0 * last_insert_id(s.token),
    s.handed_to = null
where s.owner = asked.owner and s.token = asked.token and s.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (select ? as name, ? as owner, ? as token, ? as slot, ? as ttl union all select ?, ?, ?, ?, ? limit 2) as asked straight_join `rowlock_slots` as s force index (primary)

-- token
-- A plain read of a row that this transaction has changed, and so has locked: nobody else can change it.
select token from `rowlock_locks` where name = ?

-- read
-- Reads, and locks no row. What it says may be over at once: promote and acquire judge again. What became of a
-- statement before it is judged by owner and token.
select
l.name, coalesce(
(select max(1 - ticket.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as ticket), 0) = 1
or exists (select 1 from `rowlock_gates` as g where g.name = l.name and g.closed_until > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) / 1000 as remaining,
case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as tickets, l.used,
coalesce(l.permits, 0) as permits, l.checkpointed from `rowlock_locks` as l where l.name in (?) limit 1000
-- Of two:
coalesce(l.permits, 0) as permits, l.checkpointed from `rowlock_locks` as l where l.name in (?, ?) limit 1000

-- list
-- Reads, and locks no row. What it says may be over at once, and is for people.
select
  l.name, coalesce(
  (select max(1 - ticket.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as ticket), 0) = 1
  or exists (select 1 from `rowlock_gates` as g where g.name = l.name and g.closed_until > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) / 1000 as remaining,
  case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
  l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as tickets, l.used,
  coalesce(l.permits, 0) as permits, l.checkpointed, cast(l.queue as binary) as queue, l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as clock, 0 as slot, 0 as weight
from `rowlock_locks` as l
where left(l.name, length(?)) = ? and (l.used > 0 or l.owner is not null and l.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and (l.session is null or is_free_lock(l.session) = 0))
union all
select s.name, 0, s.owner, s.token, s.holder, s.session, s.handed_to, s.takeover, null,
       case when s.session is null then 0 else is_free_lock(s.session) end,
       0, null, 0, 0, 0, null, s.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), s.slot, s.weight
from `rowlock_slots` as s
where left(s.name, length(?)) = ? and s.weight > 0
limit 2000000000

-- forceRelease
-- The row is locked FOR UPDATE SKIP LOCKED in a derived table, so an open guard is not overtaken but answered as held.
-- The token rises: what the former holder still sends, a guard or a release, finds nothing.
update (
  select name, greatest(token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as next_token
  from `rowlock_locks` force index (primary)
  where name = ? and owner is not null and expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and (? is null or token = ?)
  limit 1
  for update skip locked
) as held
straight_join `rowlock_locks` as l force index (primary) on l.name = held.name
set l.owner = null, l.session = null, l.handed_to = null, l.token = held.next_token,
    l.expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + 0 * last_insert_id(held.next_token)

-- purgeable
-- Reads, and locks no row: purge judges again.
select l.name, l.used > 0 or exists (select 1 from `rowlock_slots` as s where s.name = l.name) as has_slots
from `rowlock_locks` as l
where l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - ? * 1000 and l.token < timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and coalesce(
  (select max(ticket.until) from json_table(l.queue, '$[*]' columns (until bigint path '$.until')) as ticket), 0) <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
order by l.name
limit 2000000000

-- purge
-- Idle rows are locked FOR UPDATE SKIP LOCKED in a derived table and judged as locked: who takes one at the same time
-- has it locked, and it stays, or finds none and creates one. That has the clock for a token, which is above those of
-- all rows that go.
delete l from (
  select asked.name
  from (select ? as name, ? as idleMs limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - asked.idleMs * 1000 and l.token < timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and coalesce(
    (select max(ticket.until) from json_table(l.queue, '$[*]' columns (until bigint path '$.until')) as ticket), 0) <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and l.used = 0
  limit 1000
  for update skip locked
) as idle
straight_join `rowlock_locks` as l force index (primary) on l.name = idle.name
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ delete /*+ set_var(sql_safe_updates = off) */ l from (
  from (select ? as name, ? as idleMs union all select ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- purgeWithSlots
-- As purge, with all slots that were seen, each locked by its whole key: if one of them is locked, nothing goes. Of a
-- slot that is made just then the row stays behind; it is free, and of use to who has that name next.
delete l, s from (
  select each_slot.*, count(*) over () as found
  from (
    select asked.*
    from (select ? as name, ? as idleMs, ? as slot, ? as most limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
    straight_join `rowlock_slots` as s force index (primary) on s.name = asked.name and s.slot = asked.slot
    where l.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - asked.idleMs * 1000 and l.token < timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and coalesce(
      (select max(ticket.until) from json_table(l.queue, '$[*]' columns (until bigint path '$.until')) as ticket), 0) <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) and l.used = 0
    limit 2000000000
    for update skip locked
  ) as each_slot
) as idle
straight_join `rowlock_locks` as l force index (primary) on l.name = idle.name
straight_join `rowlock_slots` as s force index (primary) on s.name = idle.name and s.slot = idle.slot
where idle.found = idle.most
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ delete /*+ set_var(sql_safe_updates = off) */ l, s from (
    from (select ? as name, ? as idleMs, ? as slot, ? as most union all select ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- publishWaits
-- By the primary key, so it locks the row of this process alone, which nobody else does but purgeWaits, once it is old,
-- for the length of that statement. It grants nothing.
insert into `rowlock_waits` (process, said_at, waits) values (?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), ?)
on duplicate key update said_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), waits = ?

-- withdrawWaits
-- By the primary key, as publishWaits. If there is no such row it has a gap locked until it ends, which is at once,
-- since it has nothing to write.
delete from `rowlock_waits` where process = ?

-- waitsOfOthers
-- Reads, and locks no row. What others say just after is read the next time, and it grants nothing.
select timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as clock, w.process, w.said_at, w.waits
from (select 1) as one
left join `rowlock_waits` as w on w.process <> ? and w.said_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - 2000 * 1000
limit 2000000000

-- purgeableWaits
-- Reads, and locks no row: purgeWaits judges again.
select w.process from `rowlock_waits` as w where w.said_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - 60000 * 1000 order by w.process limit 1000

-- purgeWaits
-- The rows that were found are locked by their keys, FOR UPDATE SKIP LOCKED in a derived table, and judged as locked:
-- one that its process has written meanwhile stays. A process whose row goes just before it writes makes another one.
delete w from (
  select asked.process
  from (select ? as process limit 1) as asked straight_join `rowlock_waits` as w force index (primary) on w.process = asked.process
  where w.said_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - 60000 * 1000
  limit 1000
  for update skip locked
) as unsaid
straight_join `rowlock_waits` as w force index (primary) on w.process = unsaid.process
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ delete /*+ set_var(sql_safe_updates = off) */ w from (
  from (select ? as process union all select ? limit 2) as asked straight_join `rowlock_waits` as w force index (primary) on w.process = asked.process

-- readMarks
-- Reads, and locks no row. What is written just after is read the next time.
select timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as clock, m.kind, m.name, m.part, m.value, m.token
from (select ? as kind, ? as name limit 1) as asked
left join `rowlock_marks` as m force index (primary)
  on m.kind = asked.kind and m.name = asked.name and not coalesce(m.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), false)
limit 2000000000
-- Of two:
from (select ? as kind, ? as name union all select ?, ? limit 2) as asked

-- makeMark
-- Makes a row that nobody sees. Of two who make it one waits for the other, for the length of that statement.
insert ignore into `rowlock_marks` (kind, name, part, value, token, written_at, expires_at) values (?, ?, ?, null, 0, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), 0)

-- writeMarkUnder
-- The row of the lock is locked FOR UPDATE SKIP LOCKED in a derived table, judged as locked, and written, as by a
-- guard: until the commit, which the same statement makes, nobody is granted the lock. The mark is the holder's alone
-- to write; one with a higher token stays.
update (
  select asked.*
  from (select ? as name, ? as owner, ? as token, ? as ttl, ? as kind, ? as part, ? as value, ? as keepMs limit 1) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name
  where l.owner = asked.owner and l.token = asked.token and l.expires_at > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
  limit 1000
  for update skip locked
) as mine
straight_join `rowlock_locks` as l force index (primary) on l.name = mine.name
straight_join `rowlock_marks` as m force index (primary) on m.kind = mine.kind and m.name = mine.name and m.part = mine.part
set l.expires_at = greatest(l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + mine.ttl * 1000) + 0 * last_insert_id(mine.token), l.handed_to = null,
    l.checkpointed = greatest(l.checkpointed, mine.kind = 'checkpoint'),
    m.value = mine.value, m.token = mine.token, m.written_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), m.expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + mine.keepMs * 1000
where m.token <= mine.token
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  from (select ? as name, ? as owner, ? as token, ? as ttl, ? as kind, ? as part, ? as value, ? as keepMs union all select ?, ?, ?, ?, ?, ?, ?, ? limit 2) as asked straight_join `rowlock_locks` as l force index (primary) on l.name = asked.name

-- writeMark
-- By the primary key, for the length of this statement. One with a higher token stays, whoever comes first.
insert into `rowlock_marks` (kind, name, part, value, token, written_at, expires_at) values (?, ?, ?, ?, ?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000)
on duplicate key update
  value = case when token <= ? then ? else value end,
  written_at = case when token <= ? then timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) else written_at end,
  expires_at = case when token <= ? then timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000 else expires_at end,
  token = greatest(token, ?)

-- deleteMark
-- By the primary key, as writeMark. A mark with a higher token stays.
delete m from `rowlock_marks` as m where m.kind = ? and m.name = ? and m.part = ? and m.token <= ?

-- beginMark
-- In a transaction that has the lock of that name, so nobody else makes a mark of it meanwhile: it waits for purge at
-- most, for the length of that statement. An INSERT locks no gap, and of a row that is there the row alone.
insert ignore into `rowlock_marks` (kind, name, part, value, token, written_at, expires_at) values (?, ?, ?, ?, ?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000)

-- markNow
-- The row is there, so it alone is locked, by a transaction that has the lock of that name.
select timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as clock, m.kind, m.name, m.part, m.value, m.token, coalesce(m.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), false) as past from `rowlock_marks` as m force index (primary) where m.kind = ? and m.name = ? and m.part = ? for update

-- writeMarkIn
-- In a transaction that has the lock of that name, or guards it: nobody else writes this mark.
insert into `rowlock_marks` (kind, name, part, value, token, written_at, expires_at) values (?, ?, ?, ?, ?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000)
on duplicate key update
  value = ?, token = ?, written_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), expires_at = timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + ? * 1000

-- checkpointed
-- In a transaction that has the row locked, since it guards the lease of that token: nothing is waited for, and if it
-- is not its own, nothing is found.
update `rowlock_locks` set checkpointed = 1 where name = ? and token = ?

-- purgeableMarks
-- Reads, and locks no row: purgeMarks judges again.
select m.kind, m.name, m.part
from `rowlock_marks` as m
where m.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))
   or m.kind = 'checkpoint' and m.written_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - ? * 1000
      and not exists (select 1 from `rowlock_locks` as l where l.name = m.name)
limit 1000

-- purgeMarks
-- The rows that were found are locked by their keys, FOR UPDATE SKIP LOCKED in a derived table, and judged as locked:
-- one that was written meanwhile stays.
delete m from (
  select asked.kind, asked.name, asked.part
  from (select ? as kind, ? as name, ? as part, ? as idleMs limit 1) as asked
  straight_join `rowlock_marks` as m force index (primary)
    on m.kind = asked.kind and m.name = asked.name and m.part = asked.part
  where m.expires_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) or m.kind = 'checkpoint' and m.written_at <= timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) - asked.idleMs * 1000
  limit 1000
  for update skip locked
) as past
straight_join `rowlock_marks` as m force index (primary) on m.kind = past.kind and m.name = past.name and m.part = past.part
-- Of two:
/*M! set statement sql_safe_updates = 0 for */ delete /*+ set_var(sql_safe_updates = off) */ m from (
  from (select ? as kind, ? as name, ? as part, ? as idleMs union all select ?, ?, ?, ? limit 2) as asked

-- whole
-- Reads, and locks no row, the lock and its slots at one moment. Whoever acts on it (change) does so only if all is as
-- it was read.
select
  l.name, coalesce(
  (select max(1 - ticket.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as ticket), 0) = 1
  or exists (select 1 from `rowlock_gates` as g where g.name = l.name and g.closed_until > timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) / 1000 as remaining,
  case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
  l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as tickets, l.used,
  coalesce(l.permits, 0) as permits, l.checkpointed, cast(l.queue as binary) as queue, l.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as clock, 0 as slot, 0 as weight
from `rowlock_locks` as l
where l.name in (?)
union all
select s.name, 0, s.owner, s.token, s.holder, s.session, s.handed_to, s.takeover, null,
       case when s.session is null then 0 else is_free_lock(s.session) end,
       0, null, 0, 0, 0, null, s.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), s.slot, s.weight
from `rowlock_slots` as s
where s.name in (?)
limit 2000000000
-- Of two:
where l.name in (?, ?)
where s.name in (?, ?)

-- change
-- The lock's row is locked FOR UPDATE SKIP LOCKED in a derived table, and changed only if token, holder, expiry, queue,
-- permits and the sum of weights are as they were read; so of two who step at once one finds another row, or skips it,
-- and decides anew. What had run out stays so, and tokens only rise.
update (
  select l.name from `rowlock_locks` as l force index (primary)
  where l.name = ? and l.token = ? and l.used = ? and l.owner <=> ?
    and l.expires_at = ? and l.permits <=> ?
    and cast(l.queue as binary) <=> ?
  limit 1
  for update skip locked
) as same
straight_join `rowlock_locks` as l force index (primary) on l.name = same.name
set
    l.owner = ?, l.token = ?, l.expires_at = ?, l.holder = ?,
    l.session = ?, l.handed_to = ?, l.takeover = ?,
    l.queue = convert(? using utf8mb4), l.permits = ?, l.used = ?

-- changeWithSlots
-- As change, and each slot that changes is locked in the same way, by its whole key, and has to be as it was read, or
-- nothing is changed at all. So what a guard or an open transaction has locked is never taken off; weights change with
-- their sum, under the lock of one row.
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  select l.name from `rowlock_locks` as l force index (primary)
  where l.name = ? and l.token = ? and l.used = ? and l.owner <=> ?
    and l.expires_at = ? and l.permits <=> ?
    and cast(l.queue as binary) <=> ?
  limit 1
  for update skip locked
) as same
straight_join (
  select each_slot.*, count(*) over () as found
  from (
    select asked.*
    from (select ? as slot, ? as wasOwner, ? as wasToken, ? as wasWeight, ? as wasExpiry, ? as owner, ? as holder, ? as session, ? as handedTo, ? as takeover, ? as token, ? as weight, ? as expiry, ? as nth, ? as most limit 1) as asked
    straight_join `rowlock_slots` as s force index (primary) on s.name = ? and s.slot = asked.slot
    where s.owner <=> asked.wasOwner and s.token = asked.wasToken and s.weight = asked.wasWeight
      and s.expires_at = asked.wasExpiry
    limit 2000000000
    for update skip locked
  ) as each_slot
) as changing
straight_join `rowlock_locks` as l force index (primary) on l.name = same.name
straight_join `rowlock_slots` as s force index (primary) on s.name = same.name and s.slot = changing.slot
set
    l.owner = ?, l.token = ?, l.expires_at = ?, l.holder = ?,
    l.session = ?, l.handed_to = ?, l.takeover = ?,
    l.queue = convert(? using utf8mb4), l.permits = ?, l.used = ?,
    s.owner = changing.owner, s.weight = changing.weight, s.holder = changing.holder,
    s.session = changing.session, s.handed_to = changing.handedTo, s.takeover = changing.takeover, s.token = changing.token, s.expires_at = changing.expiry
where changing.found = changing.most
-- Of two:
    from (select ? as slot, ? as wasOwner, ? as wasToken, ? as wasWeight, ? as wasExpiry, ? as owner, ? as holder, ? as session, ? as handedTo, ? as takeover, ? as token, ? as weight, ? as expiry, ? as nth, ? as most union all select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? limit 2) as asked

-- share
-- As changeWithSlots, but others may come and go in between: the row has to have no other exclusive holder, queue or
-- permits than were read, and the sum of weights, as it is when the row is locked, has to leave room. Of an attempt
-- that is sent twice at once, and finds two slots, the second has no effect, since no two slots of a lock have the same
-- owner. Each slot that changes has to be as it was read, so its weight goes into the sum once, and off it once.
/*M! set statement sql_safe_updates = 0 for */ update /*+ set_var(sql_safe_updates = off) */ (
  select l.name, l.used + ? as used, greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) as first_token,
         case when ? > 0 then greatest(l.token + 1, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))) + ? - 1 else l.token end as token,
         greatest(case when l.owner is null then l.expires_at else 0 end, ?) as expiry
  from `rowlock_locks` as l force index (primary)
  where l.name = ? and l.owner <=> ? and (l.owner is null or l.expires_at = ?)
    and l.permits <=> ? and cast(l.queue as binary) <=> ?
    and (? <= 0 or l.permits is null or l.used + ? <= l.permits)
  limit 1
  for update skip locked
) as same
straight_join (
  select each_slot.*, count(*) over () as found
  from (
    select asked.*
    from (select ? as slot, ? as wasOwner, ? as wasToken, ? as wasWeight, ? as wasExpiry, ? as owner, ? as holder, ? as session, ? as handedTo, ? as takeover, ? as token, ? as weight, ? as expiry, ? as nth, ? as most limit 1) as asked
    straight_join `rowlock_slots` as s force index (primary) on s.name = ? and s.slot = asked.slot
    where s.owner <=> asked.wasOwner and s.token = asked.wasToken and s.weight = asked.wasWeight
      and s.expires_at = asked.wasExpiry
    limit 2000000000
    for update skip locked
  ) as each_slot
) as changing
straight_join `rowlock_locks` as l force index (primary) on l.name = same.name
straight_join `rowlock_slots` as s force index (primary) on s.name = same.name and s.slot = changing.slot
set l.owner = null, l.holder = null, l.session = null, l.handed_to = ?, l.takeover = ?,
    l.token = same.token, l.expires_at = same.expiry, l.used = same.used,
    s.owner = changing.owner, s.weight = changing.weight, s.holder = changing.holder,
    s.session = changing.session, s.handed_to = changing.handedTo, s.takeover = changing.takeover,
    s.token = case when changing.nth is null then changing.token else same.first_token + changing.nth end,
    s.expires_at = changing.expiry + 0 * last_insert_id(same.first_token)
where changing.found = changing.most
-- Of two:
    from (select ? as slot, ? as wasOwner, ? as wasToken, ? as wasWeight, ? as wasExpiry, ? as owner, ? as holder, ? as session, ? as handedTo, ? as takeover, ? as token, ? as weight, ? as expiry, ? as nth, ? as most union all select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? limit 2) as asked

-- makeSlots
-- Makes free slots. Whoever makes the same ones at the same time waits for the length of a statement; a slot that is
-- there already is left as it is.
insert into `rowlock_slots` (name, slot)
select asked.name, asked.slot from (select ? as name, ? as slot limit 1) as asked
on duplicate key update slot = asked.slot
-- Of two:
select asked.name, asked.slot from (select ? as name, ? as slot union all select ?, ? limit 2) as asked

-- unlocked
-- Locks slots by their whole keys, SKIP LOCKED, and lets them go at once: what is left out, somebody else has. It may
-- be over at once, and then the step is decided as if it were not.
select s.slot
from (select ? as name, ? as slot limit 1) as asked straight_join `rowlock_slots` as s force index (primary)
    on s.name = asked.name and s.slot = asked.slot
limit 2000000000
for update skip locked
-- Of two:
from (select ? as name, ? as slot union all select ?, ? limit 2) as asked straight_join `rowlock_slots` as s force index (primary)

-- endInSlot
-- The slot is locked FOR UPDATE SKIP LOCKED in a derived table, and found by name, number, owner and token, so one that
-- comes late or twice finds nothing. Its weight stays in the sum, so nobody is given too much, until a step takes it
-- off.
update (
  select s.name, s.slot
  from `rowlock_slots` as s force index (primary)
  where s.name = ? and s.slot = ? and s.owner = ? and s.token = ?
  limit 1
  for update skip locked
) as mine
straight_join `rowlock_slots` as s force index (primary) on s.name = mine.name and s.slot = mine.slot
set s.owner = null, s.session = null, s.handed_to = null, s.expires_at = least(s.expires_at, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)))

-- createFor
-- Makes a row that nobody holds; one that somebody else has made meanwhile is left as it is, and judged by what it is.
-- Asked only where none was seen, so it waits for whoever is making it, and for nobody else.
insert into `rowlock_locks` (name, token, expires_at, permits) values (?, timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)), ?)
on duplicate key update token = token

-- What is not compiled but written where it is sent; several texts in turn are parted by semicolons.

-- assess
-- Reads settings, before the first lock, and locks nothing.
show variables where variable_name in (
  'wsrep_on', 'wsrep_dirty_reads', 'group_replication_single_primary_mode',
  'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog',
  'version', 'version_comment', 'innodb_rollback_on_timeout', 'autocommit', 'read_only', 'transaction_read_only', 'tx_read_only',
  'idle_transaction_timeout', 'idle_write_transaction_timeout', 'idle_readonly_transaction_timeout')
;
select name from `rowlock_migrations` where name like 'protocol %'

-- openSession
-- On rowlock's own connection, on which a row is waited for no longer than a second. The name of the GET_LOCK is
-- random, so nobody has it or ever gets it again; it ends with the session, which is what others ask for. Where a
-- proxy's session would keep it, it is not taken.
set session innodb_lock_wait_timeout = 1
;
show variables where variable_name in (
  'wsrep_on', 'wsrep_dirty_reads', 'group_replication_single_primary_mode',
  'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog',
  'version', 'version_comment', 'innodb_rollback_on_timeout', 'autocommit', 'read_only', 'transaction_read_only', 'tx_read_only',
  'idle_transaction_timeout', 'idle_write_transaction_timeout', 'idle_readonly_transaction_timeout')
;
select connection_id() as backend, case when coalesce(?, connection_id()) = connection_id() then get_lock(?, 0) end as locked
;
set session wait_timeout = 86400
;
select 1
;
do release_lock(?)

-- releaseIn
-- Before the compiled statement of that name: the answer to it says whether a transaction is open, and changes nothing.
do 0

-- migrate
-- Those who migrate the same tables take turns by a GET_LOCK of this name, for a minute at most. DDL commits by itself,
-- so each statement may be run again after one that was cut off. Between the last two: the migrations that have not
-- run, and the table that lists them if it is missing.
select get_lock(concat('rowlock:migrate:', left(sha2(concat(database(), ' ', ?), 256), 40)), ?) as locked
;
select name from `rowlock_migrations`
;
do release_lock(concat('rowlock:migrate:', left(sha2(concat(database(), ' ', ?), 256), 40)))
