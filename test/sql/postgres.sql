-- PostgreSQL: what the database gets, by the names that statements have in src/engines/postgres.
-- Written by `npm run sql`, with the reasons from reasons.ts.

-- acquireOne
-- rowlock_acquire_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED if it is free, and judges it as locked:
-- of two who come at once one finds it locked, and is refused; so is everybody while a guard has it FOR KEY SHARE. Who
-- creates a name only tries for the advisory lock that keeps two of them apart.
select token, takeover, holder, queued, ours
from "rowlock_acquire_1"($1::text, $2::text, $3::float8, $4::text, $5::bigint)

-- acquireAlike
-- Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked, so who comes at the same time skips them. They are
-- changed at their places, where nothing is found if they have changed since the statement began: acquireMany looks at
-- those again.
with taken as (
update "rowlock_locks" as l
set owner = case when $1::float8 is not null then $2::text end,
    token = case when l.owner = $2::text then l.token else greatest(l.token + 1, (select (extract(epoch from clock_timestamp()) * 1000000)::bigint)) end,
    expires_at = clock_timestamp() + coalesce($1::float8, 0) * interval '1 ms',
    holder = $3::text,
    session = $4::bigint,
    handed_to = null,
    takeover = case when l.owner = $2::text then l.takeover else l.owner is not null end
  where l.ctid = any(array(
    select l.ctid from "rowlock_locks" as l
    where l.name = any((select $5::text)::text[]) and case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end and (l.queue is null and (l.owner is null or l.expires_at <= clock_timestamp()
      or case when l.session is null then false else case
      when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
      else pg_try_advisory_xact_lock_shared(l.session) end end) or l.owner = $2::text)
    for update skip locked)) and case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end
  returning l.name, l.token, l.takeover
)
select case when count(*) < $6::int then json_agg(name)::text end as names, token::text, takeover, set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)
from taken group by token, takeover

-- acquireMany
-- Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked; of two who create a name one gets the advisory
-- lock, for which they only try, and the other is refused. A refusal tells what was read, and may be out of date when
-- it comes; a grant cannot be.
with asked as materialized (
  select name, owner, i, ttl, holder, session
  from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::float8[],
              (select $4::text)::text[], (select $5::text)::bigint[]) with ordinality as a(name, owner, ttl, holder, session, i)
), free as (
  select a.*
  from asked as a, lateral (
    select l.ctid from "rowlock_locks" as l
    where l.name = a.name and (l.queue is null and (l.owner is null or l.expires_at <= clock_timestamp()
      or case when l.session is null then false else case
      when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
      else pg_try_advisory_xact_lock_shared(l.session) end end) or l.owner = a.owner)
    for update skip locked) as l
  limit (select 1000000)
), taken as (
update "rowlock_locks" as l
set owner = case when f.ttl is not null then f.owner end,
    token = case when l.owner = f.owner then l.token else greatest(l.token + 1, (select (extract(epoch from clock_timestamp()) * 1000000)::bigint)) end,
    expires_at = clock_timestamp() + coalesce(f.ttl, 0) * interval '1 ms',
    holder = f.holder,
    session = f.session,
    handed_to = null,
    takeover = case when l.owner = f.owner then l.takeover else l.owner is not null end
  from free as f
  where l.name = f.name
  returning f.i, l.token, l.takeover
), missed as materialized (
  select * from asked as a where not exists (select from taken as t where t.i = a.i)
), created as (
  insert into "rowlock_locks" (name, owner, token, expires_at, holder, session)
  select m.name, case when m.ttl is not null then m.owner end, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
         clock_timestamp() + coalesce(m.ttl, 0) * interval '1 ms', m.holder, m.session
  from missed as m
  where case when (select true from "rowlock_locks" as l where l.name = m.name) then false
             else pg_try_advisory_xact_lock(hashtextextended('"rowlock_locks"'::regclass::oid || ' ' || m.name, 7239615)) end
  on conflict (name) do nothing
  returning name, token
)
select i::int, token::text, takeover, null as holder, false as queued, false as ours, (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)) from taken
union all
select m.i::int, c.token::text, false, null, false, false, (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)) from created as c join missed as m on m.name = c.name
union all
select m.i::int, null, false, case when not (l.owner is null or l.expires_at <= clock_timestamp()
  or case when l.session is null then false else case
  when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
  else pg_try_advisory_xact_lock_shared(l.session) end end) then l.holder end,
       l.queue is not null and (l.owner is null or l.expires_at <= clock_timestamp()
         or case when l.session is null then false else case
         when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
         else pg_try_advisory_xact_lock_shared(l.session) end end), l.owner is not distinct from m.owner, null
from missed as m, lateral (select * from "rowlock_locks" as l where l.name = m.name limit 1) as l

-- acquireIn
-- rowlock_within_1 (migrations/postgres) waits as long as it is told: for other transactions at an advisory lock, then
-- for a guard at the row, FOR UPDATE, which it judges as locked and keeps until the transaction ends. Who is refused
-- rolls back a subtransaction, and with it both locks.
select outcome, token, owner, holder, idle_limit_ms, pg_backend_pid() as backend
from "rowlock_within_1"($1::text, $2::text, $3::float8, $4::text, $5::float8)

-- acquireFreeIn
-- rowlock_within_free_1 (migrations/postgres) looks at each row, in the order of names, and then locks it FOR UPDATE
-- SKIP LOCKED and judges it as locked; it waits for nothing. What somebody else holds, waits for, or is about to take
-- (its advisory lock cannot be had) is not locked; should somebody come in between, all is undone with a
-- subtransaction, and the rows before that one are taken again.
select array_to_json(tokens)::text as tokens, missing, pg_backend_pid() as backend,
       current_setting('transaction_isolation') in ('repeatable read', 'serializable') as reads_snapshot
from "rowlock_within_free_1"((select $1::text)::text[], $2::text)

-- createFree
-- Creates free rows, and gives nobody a lock. It only tries for the advisory lock that keeps two who create a name
-- apart, and so waits for nobody; a name whose lock somebody has is left to them.
insert into "rowlock_locks" (name, token, expires_at)
select a.name, (extract(epoch from clock_timestamp()) * 1000000)::bigint, clock_timestamp()
from unnest((select $1::text)::text[]) as a(name)
where case when (select true from "rowlock_locks" as l where l.name = a.name) then false
             else pg_try_advisory_xact_lock(hashtextextended('"rowlock_locks"'::regclass::oid || ' ' || a.name, 7239615)) end
on conflict (name) do nothing

-- pollTransactions
-- Reads pg_locks and locks nothing. What it says may be over at once: who goes in too early waits in the database, who
-- goes in too late has waited a little longer.
select a.i::int, t.pid is not null as taken,
       t.pid is not null and exists (select from pg_locks as w where w.pid = t.pid and not w.granted) as blocked,
       case when not (l.owner is null or l.expires_at <= clock_timestamp()
         or case when l.session is null then false else case
         when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
         else pg_try_advisory_xact_lock_shared(l.session) end end) then l.holder
            when (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) then 'others, who wait for it' end as leased_to
from unnest((select $1::text)::text[]) with ordinality as a(name, i)
left join lateral (select l.*, l.xmax as changed_by from "rowlock_locks" as l where l.name = a.name limit 1) as l on true
left join lateral (
  select pid from pg_locks
  where granted
    and (locktype = 'transactionid' and transactionid = l.changed_by
         or locktype = 'advisory' and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())
            and classid::bigint = (hashtextextended('"rowlock_locks"'::regclass::oid || ' ' || a.name, 7239615) >> 32) & 4294967295
            and objid::bigint = hashtextextended('"rowlock_locks"'::regclass::oid || ' ' || a.name, 7239615) & 4294967295)
  order by locktype desc
  limit 1
) as t on true

-- hasWritten
-- Reads pg_locks and locks nothing. The transaction waits for the answer meanwhile, and keeps an id that it has until
-- it ends; no lock is granted by the answer.
select exists (select from pg_locks where pid = $1::int and locktype = 'transactionid' and granted) as written

-- closeGates
-- Grants nothing: a gate is about fairness. It waits for whoever closes or opens the same gates, for the length of such
-- a statement, and takes them in the order of names, so not in a circle.
insert into "rowlock_gates" as g (name, closed_until, closed_by)
select name, clock_timestamp() + 1000 * interval '1 ms', closer
from unnest($1::text::text[], $2::text::text[]) as a(name, closer)
order by name collate "C"
on conflict (name) do update set closed_until = excluded.closed_until, closed_by = excluded.closed_by
returning set_config('synchronous_commit', 'off', true)

-- openGates
-- Opens what was closed by the same closing only, so a gate that somebody else has closed since stays closed. It waits
-- for the length of a statement at most, and a deadlock would be repeated.
update "rowlock_gates" as g set closed_until = clock_timestamp()
from unnest($1::text::text[], $2::text::text[]) as a(name, closer)
where g.name = a.name and g.closed_by = a.closer
returning set_config('synchronous_commit', 'off', true)

-- enqueue
-- The row is locked FOR NO KEY UPDATE SKIP LOCKED, which passes a guard, so places in the queue are given one after the
-- other, in the order of names. What is locked, or has changed since the statement began, is answered as locked and
-- asked again.
with asked as materialized (
  select * from json_to_recordset((select $1::text)::json)
    as a(i int, name text, count int, ticket text, joins text, "ttlMs" float8, holder text, session text, process text,
         listening boolean, "provenAlive" boolean, transaction boolean, "waitMs" float8)
  order by name collate "C"
  limit (select 1000000)
), open as (
  select a.*, l.ctid as place
  from asked as a, lateral (
    select l.ctid from "rowlock_locks" as l where l.name = a.name for no key update skip locked
  ) as l
  limit (select 1000000)
), queued as (
  update "rowlock_locks" as l
  set queue = case
    when l.queue->-1->>'id' = a.joins
      then jsonb_set(l.queue, '{-1}', l.queue->-1 || jsonb_build_object(
             'n', (l.queue->-1->>'n')::int + a.count,
             'until', greatest((l.queue->-1->>'until')::float8, (extract(epoch from clock_timestamp()) * 1000000)::bigint + a."waitMs" * 1000)))
    else coalesce(l.queue, '[]') || (jsonb_build_object(
             'id', a.ticket, 'n', a.count, 'ttl', a."ttlMs", 'holder', a.holder, 'session', a.session,
             'process', a.process, 'listening', a.listening, 'provenAlive', a."provenAlive", 'until', (extract(epoch from clock_timestamp()) * 1000000)::bigint + a."waitMs" * 1000)
           || case when a.transaction then '{"transaction": true}' else '{}' end::jsonb) end
  from open as a
  where l.ctid = a.place and a.count + (select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e) <= $2::int
  returning l.name, l.queue->-1->>'id' as ticket,
       (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) as leases_wait,
       l.owner, l.token::text, l.holder as label, l.takeover,
       extract(epoch from l.expires_at - clock_timestamp())::float8 * 1000 as remaining,
       l.session is not null as by_session, (l.owner is null or l.expires_at <= clock_timestamp()
         or case when l.session is null then false else case
         when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
         else pg_try_advisory_xact_lock_shared(l.session) end end) as free,
       jsonb_path_query_array(l.queue, '$[*].id')::text as tickets
)
select case when q.name is not null then 'queued'
            when (select l.ctid from "rowlock_locks" as l where l.name = a.name) = (select place from open as o where o.i = a.i) then 'full'
            when (select true from "rowlock_locks" as l where l.name = a.name) then 'locked' else 'missing' end as outcome,
       a.i, q.ticket, q.leases_wait, q.owner, q.token, q.label, q.takeover, q.remaining, q.by_session, q.free, q.tickets
from asked as a left join queued as q on q.name = a.name

-- withdraw
-- The row is locked FOR NO KEY UPDATE SKIP LOCKED, and only the ticket with this id is made smaller. If it was handed
-- the lock just before, the answer says so; what is locked, or has changed since the statement began, is asked again.
with asked as materialized (
  select * from json_to_recordset((select $1::text)::json) as a(i int, name text, ticket text, count int)
  order by name collate "C"
  limit (select 1000000)
), open as (
  select a.*, l.ctid as place
  from asked as a, lateral (
    select l.ctid from "rowlock_locks" as l where l.name = a.name and l.queue is not null for no key update skip locked
  ) as l
  limit (select 1000000)
), left_behind as (
  update "rowlock_locks" as l
  set queue = (
    select jsonb_agg(case when t->>'id' = a.ticket then jsonb_set(t, '{n}', to_jsonb((t->>'n')::int - a.count)) else t end
                     order by position)
    from jsonb_array_elements(l.queue) with ordinality as q(t, position)
    where t->>'id' <> a.ticket or (t->>'n')::int > a.count)
  from open as a
  where l.ctid = a.place
  returning l.*
)
select a.i, case when left(l.owner, 16) = a.ticket and l.expires_at > clock_timestamp()
              and l.handed_to is not null and not starts_with(l.handed_to, 'transaction ') then l.owner end as owner,
       l.token::text, l.takeover, l.handed_to as process,
       extract(epoch from l.expires_at - clock_timestamp())::float8 * 1000 as remaining,
       l.queue is not null and not l.found as locked
from asked as a, lateral (
  select true as found, l.* from left_behind as l where l.name = a.name
  union all select false as found, l.* from lateral (select * from "rowlock_locks" as l where l.name = a.name limit 1) as l
  limit 1
) as l

-- promote
-- Rows that nobody holds are locked FOR UPDATE SKIP LOCKED and judged as locked: of two who promote one finds a row
-- locked, or held by then, and under an open guard it is skipped. Who is handed the lock just before is what the other
-- one reads.
with source as materialized (
  select l.name, l.token, l.owner is not null as takeover,
         case when l.owner is null or l.handed_to is null then l.queue
              else nullif(jsonb_path_query_array(l.queue, ('$[*] ? (@.process != "' || l.handed_to || '")')::jsonpath), '[]')
              end as queue
  from unnest((select $1::text)::text[]) as a(name), lateral (
    select * from "rowlock_locks" as l
    where l.name = a.name and l.queue is not null and (l.owner is null or l.expires_at <= clock_timestamp()
      or case when l.session is null then false else case
      when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
      else pg_try_advisory_xact_lock_shared(l.session) end end)
    for update skip locked
  ) as l
  limit (select 1000000)
), changed as (
update "rowlock_locks" as l
set owner = case when n.ticket is not null then (n.ticket->>'id') || lpad(to_hex(n.next_token), 16, '0')
                 when n.takeover then l.owner end,
    token = case when n.ticket is null then l.token else n.next_token end,
    expires_at = case when n.ticket is null then case when n.takeover then l.expires_at else least(l.expires_at, clock_timestamp()) end
                      else clock_timestamp() + least((n.ticket->>'ttl')::float8, 1000) * interval '1 ms' end,
    holder = coalesce(n.ticket->>'holder', l.holder),
    session = case when n.ticket is not null then (n.ticket->>'session')::bigint when n.takeover then l.session end,
    handed_to = n.ticket->>'process',
    takeover = case when n.ticket is null then l.takeover else n.takeover end,
    queue = case when n.ticket is null then null
                 when (n.ticket->>'n')::int > 1
                   then jsonb_set(jsonb_path_query_array(n.queue, ('$[' || n.position - 1 || ' to last]')::jsonpath),
                                  '{0,n}', to_jsonb((n.ticket->>'n')::int - 1))
                 else nullif(jsonb_path_query_array(n.queue, ('$[' || n.position || ' to last]')::jsonpath), '[]') end
from (
  select s.name, s.takeover, s.queue, greatest(s.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) as next_token, t.ticket, t.position
  from source as s left join lateral (
    select ticket, position from jsonb_array_elements(s.queue) with ordinality as t(ticket, position)
    where not ((ticket->>'until')::float8 <= (extract(epoch from clock_timestamp()) * 1000000)::bigint
      or case when (ticket->>'provenAlive')::boolean
              then case
                when (ticket->>'process')::bigint::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                else pg_try_advisory_xact_lock_shared((ticket->>'process')::bigint) end else false end)
    limit 1
  ) as t on true
) as n
where l.name = n.name
returning l.name, case when n.ticket is not null then l.owner end as owner, l.token::text as token, l.takeover, l.handed_to as process, extract(epoch from l.expires_at - clock_timestamp())::float8 * 1000 as remaining,
          case when (n.ticket->>'listening')::boolean and l.handed_to <> $2::text
               then pg_notify('rowlock_' || l.handed_to,
                              json_build_object('name', l.name, 'owner', l.owner, 'token', l.token::text, 'takeover', l.takeover,
                                                'expiresAt', extract(epoch from l.expires_at)::float8 * 1000)::text)::text end as notified)
select a.i::int, c.owner, c.token, c.takeover, c.process, c.remaining,
       case when c.owner is not null then 'handed over'
            when c.name is not null or (l.queue is null and (l.owner is null or l.expires_at <= clock_timestamp()
              or case when l.session is null then false else case
              when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
              else pg_try_advisory_xact_lock_shared(l.session) end end)) then 'idle'
            when (l.owner is null or l.expires_at <= clock_timestamp()
              or case when l.session is null then false else case
              when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
              else pg_try_advisory_xact_lock_shared(l.session) end end) then 'locked' else 'held' end as outcome,
       (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true) where exists (select from changed where owner is not null))
from unnest((select $1::text)::text[]) with ordinality as a(name, i)
cross join lateral (select * from "rowlock_locks" as l where l.name = a.name limit 1) as l
left join changed as c on c.name = a.name

-- releaseOne
-- rowlock_release_1 (migrations/postgres) finds the row by name, owner and token, FOR UPDATE SKIP LOCKED, so one that
-- comes late or twice finds nothing. Under an open guard it ends the lease FOR NO KEY UPDATE, and nobody is given the
-- lock before that guard ends.
select outcome, promote_later, owner, token, takeover, process, remaining
from "rowlock_release_1"($1::text, $2::text, $3::bigint, $4::text)

-- releaseUnawaited
-- Rows of this name, owner and token, for which nobody waits, are locked FOR NO KEY UPDATE SKIP LOCKED, in the order of
-- names. They are changed at their places, so one in whose queue somebody is since the statement began is left to
-- releaseMany.
with asked as materialized (
  select $1::text::jsonb as holds
), released as (
  update "rowlock_locks" as l
  set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
  where l.ctid = any(array(
    select l.ctid from "rowlock_locks" as l
    where l.name = any(array(select jsonb_object_keys(holds) from asked)) and case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end
      and (select holds from asked) ->> l.name = l.owner || ' ' || l.token
      and l.queue is null
    order by l.name collate "C"
    for no key update skip locked
  )) and case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end
  returning l.name
)
select case when count(*) < $2::int then json_agg(name)::text end as names, set_config('synchronous_commit', 'off', true) from released having count(*) > 0

-- releaseMany
-- Rows of this name, owner and token are locked FOR UPDATE SKIP LOCKED, and handed to the first in their queues in the
-- same statement: nobody can barge in between. Under an open guard a row is skipped, and releaseGuarded follows.
with asked as materialized (
  select * from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::bigint[]) with ordinality as a(name, owner, token, i)
), source as materialized (
  select l.* from asked as a, lateral (
    select l.name, l.token, l.queue, false as takeover
    from "rowlock_locks" as l
    where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
    for update skip locked
  ) as l
  limit (select 1000000)
), changed as (
update "rowlock_locks" as l
set owner = case when n.ticket is not null then (n.ticket->>'id') || lpad(to_hex(n.next_token), 16, '0')
                 when n.takeover then l.owner end,
    token = case when n.ticket is null then l.token else n.next_token end,
    expires_at = case when n.ticket is null then case when n.takeover then l.expires_at else least(l.expires_at, clock_timestamp()) end
                      else clock_timestamp() + least((n.ticket->>'ttl')::float8, 1000) * interval '1 ms' end,
    holder = coalesce(n.ticket->>'holder', l.holder),
    session = case when n.ticket is not null then (n.ticket->>'session')::bigint when n.takeover then l.session end,
    handed_to = n.ticket->>'process',
    takeover = case when n.ticket is null then l.takeover else n.takeover end,
    queue = case when n.ticket is null then null
                 when (n.ticket->>'n')::int > 1
                   then jsonb_set(jsonb_path_query_array(n.queue, ('$[' || n.position - 1 || ' to last]')::jsonpath),
                                  '{0,n}', to_jsonb((n.ticket->>'n')::int - 1))
                 else nullif(jsonb_path_query_array(n.queue, ('$[' || n.position || ' to last]')::jsonpath), '[]') end
from (
  select s.name, s.takeover, s.queue, greatest(s.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) as next_token, t.ticket, t.position
  from source as s left join lateral (
    select ticket, position from jsonb_array_elements(s.queue) with ordinality as t(ticket, position)
    where not ((ticket->>'until')::float8 <= (extract(epoch from clock_timestamp()) * 1000000)::bigint
      or case when (ticket->>'provenAlive')::boolean
              then case
                when (ticket->>'process')::bigint::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                else pg_try_advisory_xact_lock_shared((ticket->>'process')::bigint) end else false end)
    limit 1
  ) as t on true
) as n
where l.name = n.name
returning l.name, case when n.ticket is not null then l.owner end as owner, l.token::text as token, l.takeover, l.handed_to as process, extract(epoch from l.expires_at - clock_timestamp())::float8 * 1000 as remaining,
          case when (n.ticket->>'listening')::boolean and l.handed_to <> $4::text
               then pg_notify('rowlock_' || l.handed_to,
                              json_build_object('name', l.name, 'owner', l.owner, 'token', l.token::text, 'takeover', l.takeover,
                                                'expiresAt', extract(epoch from l.expires_at)::float8 * 1000)::text)::text end as notified)
select a.i::int, c.name is not null as released,
       case when c.name is null
            then (select true from "rowlock_locks" as l where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)) end as ours,
       c.owner, c.token, c.takeover, c.process, c.remaining,
       (select case when exists (select from changed where owner is not null) then set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)
                    else set_config('synchronous_commit', 'off', true) end)
from asked as a left join changed as c on c.name = a.name

-- releaseGuarded
-- Ends leases, and gives nobody the lock: FOR NO KEY UPDATE SKIP LOCKED passes an open guard, whose own lock keeps
-- everybody out until it ends. Changed at its place, in the order of names, so a row that has changed since is not
-- waited for.
with asked as materialized (
  select * from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::bigint[]) with ordinality as a(name, owner, token, i) order by name collate "C"
), mine as (
  select a.i, l.ctid as place
  from asked as a, lateral (
    select l.ctid from "rowlock_locks" as l
    where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
    for no key update skip locked
  ) as l
  limit (select 1000000)
)
update "rowlock_locks" as l
set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
from mine
where l.ctid = mine.place
returning mine.i::int, l.queue is not null as awaited

-- releaseIn
-- In the caller's transaction. It waits for a statement that has the row, bounded by the caller's settings, and finds
-- it by name, owner and token then; from then until the commit all others find the row locked, so nobody has the lock
-- before.
update "rowlock_locks" as l
set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
where name = $1::text and owner = $2::text and token = $3::bigint
returning queue is not null as awaited

-- renew
-- Rows of this name, owner and token that have not run out are locked FOR NO KEY UPDATE SKIP LOCKED, which passes a
-- guard, and judged as locked: nothing is revived, or renewed for who lost it. It never shortens, so a late one does no
-- harm. Changed at its place, so a row that has changed since is not waited for.
with asked as materialized (
  select * from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::bigint[], (select $4::text)::float8[])
                with ordinality as a(name, owner, token, ttl, i)
  order by name collate "C"
), mine as (
  select l.ctid as place, a.ttl, a.i from asked as a, lateral (
    select l.ctid from "rowlock_locks" as l
    where (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
    for no key update skip locked
  ) as l
  limit (select 1000000)
), renewed as (
  update "rowlock_locks" as l
  set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms'), handed_to = null
  from mine
  where l.ctid = mine.place
  returning l.name, l.expires_at
)
select a.i::int,
       case when r.name is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
       r.name is null and a.i in (select i from mine) as changed,
       extract(epoch from coalesce(r.expires_at, l.expires_at) - clock_timestamp())::float8 * 1000 as remaining,
       (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true))
from asked as a
left join renewed as r on r.name = a.name
left join lateral (
  select l.name, l.expires_at from "rowlock_locks" as l
  where r.name is null and (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
  limit 1
) as l on true

-- guardOne
-- In the caller's transaction: FOR KEY SHARE until it ends, and every statement that gives the lock to somebody else
-- locks FOR UPDATE and skips the row. After a takeover there is no row of this owner and token. It waits only for
-- whoever is giving the lock to somebody else: a statement, or a transaction that has taken it from a lease that ran
-- out.
select expires_at > clock_timestamp() as stands
from "rowlock_locks"
where name = $1::text and owner = $2::text and token = $3::bigint
for key share

-- guardMany
-- As guardOne, in the order of names, so that two transactions that guard the same leases do not wait in a circle.
select a.i::int, l.expires_at > clock_timestamp() as stands
from "rowlock_locks" as l
join unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::bigint[]) with ordinality as a(name, owner, token, i)
  on (a.name, a.owner, a.token) = (l.name, l.owner, l.token)
order by l.name
for key share of l

-- poll
-- Reads, and locks no row; whether a session is gone it finds by trying for its advisory lock. What it says may be over
-- at once: promote and acquire judge again.
select a.i::int,
       (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) as leases_wait,
       l.owner, l.token::text, l.holder as label, l.takeover,
       extract(epoch from l.expires_at - clock_timestamp())::float8 * 1000 as remaining,
       l.session is not null as by_session, (l.owner is null or l.expires_at <= clock_timestamp()
         or case when l.session is null then false else case
         when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
         else pg_try_advisory_xact_lock_shared(l.session) end end) as free,
       jsonb_path_query_array(l.queue, '$[*].id')::text as tickets
from unnest((select $1::text)::text[]) with ordinality as a(name, i),
     lateral (select * from "rowlock_locks" as l where l.name = a.name limit 1) as l

-- list
-- Reads, and locks no row. What it says may be over at once, and is for people.
select name, owner, token::text, holder, (select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e) as waiters,
       extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as remaining
from "rowlock_locks" as l
where starts_with(name, $1::text) and not (l.owner is null or l.expires_at <= clock_timestamp()
  or case when l.session is null then false else case
  when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
  else pg_try_advisory_xact_lock_shared(l.session) end end)
order by name

-- inspect
-- Reads, and locks no row. What it says may be over at once, and is for people.
select name, owner, token::text, holder, (select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e) as waiters,
       extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as remaining
from "rowlock_locks" as l
where name = $1::text and not (l.owner is null or l.expires_at <= clock_timestamp()
  or case when l.session is null then false else case
  when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
  else pg_try_advisory_xact_lock_shared(l.session) end end)

-- forceRelease
-- The row is locked FOR UPDATE SKIP LOCKED, so an open guard is not overtaken but answered as held. The token rises:
-- what the former holder still sends, a guard or a release, finds nothing.
with held as (
  select name from "rowlock_locks"
  where name = $1::text and owner is not null and expires_at > clock_timestamp()
  for update skip locked
), forced as (
  update "rowlock_locks" as l
  set owner = null, session = null, handed_to = null,
      token = greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint), expires_at = clock_timestamp()
  from held
  where l.name = held.name
  returning l.name
)
select exists (select from forced) as forced,
       exists (select from "rowlock_locks"
               where name = $1::text and owner is not null and expires_at > clock_timestamp()) as held

-- purge
-- Idle rows are locked FOR UPDATE SKIP LOCKED and judged as locked: who takes one at the same time has it locked, and
-- it stays, or finds none and creates one. That has the clock for a token, which is above those of all rows that go.
with idle as (
  select name from "rowlock_locks"
  where expires_at <= clock_timestamp() - $1::float8 * interval '1 ms' and token < (extract(epoch from clock_timestamp()) * 1000000)::bigint
    and (queue is null
         or not exists (select from jsonb_array_elements(queue) as t where (t->>'until')::float8 > (extract(epoch from clock_timestamp()) * 1000000)::bigint))
  order by name
  for update skip locked
), gone as (
  delete from "rowlock_locks" as l using idle where l.name = idle.name returning l.name
)
select count(*)::int as purged from gone

-- What is not compiled but written where it is sent; several texts in turn are parted by semicolons.

-- assess
-- Reads settings and catalogs, before the first lock, and locks nothing.
select true as yes, false as no, 7 as i, 0.5::float8 as remaining, '7'::text as token
;
select version() as version,
       current_setting('fsync') as fsync,
       current_setting('full_page_writes') as full_page_writes,
       current_setting('default_transaction_read_only') as default_transaction_read_only,
       pg_is_in_recovery()::text as in_recovery,
       (select string_agg(name, ', ')
        from (values ('SELECT', 'r'), ('INSERT', 'a'), ('UPDATE', 'w')) as command(name, letter)
        where row_security_active(to_regclass(nullif($1::text, ''))::oid)
          and not exists (
            select from pg_policy
            where polrelid = to_regclass(nullif($1::text, '')) and polpermissive and polcmd::text in ('*', letter)
              and (polroles = '{0}' or exists (select from unnest(polroles) as role where pg_has_role(role, 'usage'))))
       ) as unpermitted
;
select name from "rowlock_migrations" where name like 'protocol %'
;
select n.nspname::text as schema
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where c.oid = to_regclass($1::text)

-- openSession
-- On rowlock's own connection. The advisory lock is tried for, and its key is random: nobody has it, and nobody ever
-- gets it again. It ends with the session, which is what others try for; where a pooler's session would keep it, it is
-- not taken.
select backend,
  case when is_direct then pg_try_advisory_lock($1::bigint) end as locked,
  case when is_direct then set_config('rowlock.own_locks',
    concat_ws(',', nullif(current_setting('rowlock.own_locks', true), ''), $1::text), false) end as told,
  case when is_direct then (select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout') end as idle
from (select pg_backend_pid() as backend, pg_backend_pid() = coalesce($2::int, pg_backend_pid()) as is_direct) as s
;
select 1
;
select pg_advisory_unlock($1::bigint),
set_config('rowlock.own_locks', array_to_string(array_remove(
  string_to_array(current_setting('rowlock.own_locks', true), ','), $1::text), ','), false)

-- listen
-- On rowlock's own connection, by an advisory lock as for openSession, which shows that the process lives. A
-- notification only hastens what a poll finds anyway, so one that comes before LISTEN or after UNLISTEN costs time and
-- nothing else.
select backend,
  case when is_direct then pg_try_advisory_lock($1::bigint) end as locked,
  case when is_direct then set_config('rowlock.own_locks',
    concat_ws(',', nullif(current_setting('rowlock.own_locks', true), ''), $1::text), false) end as told,
  case when is_direct then (select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout') end as idle
from (select pg_backend_pid() as backend, pg_backend_pid() = coalesce($2::int, pg_backend_pid()) as is_direct) as s
;
select extract(epoch from clock_timestamp())::float8 * 1000 as now
;
listen "rowlock_7"
;
unlisten "rowlock_7"
;
select pg_advisory_unlock($1::bigint),
set_config('rowlock.own_locks', array_to_string(array_remove(
  string_to_array(current_setting('rowlock.own_locks', true), ','), $1::text), ','), false)

-- readsSnapshot
-- In the caller's transaction. SHOW takes no snapshot, and no lock.
show transaction_isolation

-- guardedQuery
-- The caller's statement with guardOne beside it, whose row lock lasts until the transaction ends. If that finds no
-- row, a cast fails, which undoes the whole statement, whatever of it was executed first.
with rowlock_query as (update ledger set value = $1
)
select 1 where false = coalesce(
  (select true from (
  select expires_at > clock_timestamp() as stands
  from "rowlock_locks"
  where name = $2::text and owner = $3::text and token = $4::bigint
  for key share) as rowlock_row),
  ('rowlock: the lease is lost' || left(clock_timestamp()::text, 0))::boolean)

-- migrate
-- Those who migrate the same tables take turns at an advisory lock until their commit, so what one finds missing nobody
-- else is creating. It waits for them, and for nobody who takes locks. Between the last two statements: the migrations
-- that have not run.
begin
;
select 1 from pg_advisory_xact_lock(hashtextextended(coalesce($1::text, current_schema()) || ' ' || $2::text, $3::bigint))
;
select to_regclass($1::text) is not null as found
;
create table if not exists "rowlock_migrations" (name text not null primary key)
;
select name from "rowlock_migrations"
;
commit
