-- PostgreSQL: what the database gets, by the names that statements have in src/engines/postgres.
-- Written by `npm run sql`, with the reasons from reasons.ts.

-- acquireOne
-- rowlock_acquire_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED if it is free, and judges it as locked:
-- of two who come at once one finds it locked, and is refused; so is everybody while a guard has it FOR KEY SHARE. If
-- it was shared, it is free only if all slots could be locked as well. Who creates a name only tries for the advisory
-- lock that keeps two of them apart.
select token, takeover, checkpointed, holders::text, queued, ours, permits
from "rowlock_acquire_1"($1::text, $2::text, $3::float8, $4::text, $5::bigint)

-- acquireAlike
-- Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked, so who comes at the same time skips them. They are
-- changed at their places, where nothing is found if they have changed since the statement began: acquireMany looks at
-- those again. The weights of shared holds (`used`) are judged with the row.
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
      else pg_try_advisory_xact_lock_shared(l.session) end end) or l.owner = $2::text) and l.used = 0 and l.permits is null
    for update skip locked)) and case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end
  returning l.name, l.token, l.takeover, case when not l.takeover then exists (select from "rowlock_marks" as m where m.kind = 'checkpoint' and m.name = l.name and case when m.token < 0 then (select count(*) from generate_series(0, m.token)) > 0 else true end) end as checkpointed
)
select case when count(*) < $6::int then json_agg(name)::text end as names, token::text, takeover, checkpointed, set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)
from taken group by token, takeover, checkpointed

-- acquireMany
-- Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked; of two who create a name one gets the advisory
-- lock, for which they only try, and the other is refused. A refusal tells what was read, and may be out of date when
-- it comes; a grant cannot be. What is shared is refused, and left to acquireEach.
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
      else pg_try_advisory_xact_lock_shared(l.session) end end) or l.owner = a.owner) and l.used = 0 and l.permits is null
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
select i::int, token::text, takeover, null as holders, false as queued, false as ours, null::int as permits, false as shared,
       (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true))
from taken
union all
select m.i::int, c.token::text, false, null, false, false, null, false, (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true))
from created as c join missed as m on m.name = c.name
union all
select m.i::int, null, false, case when not (l.owner is null or l.expires_at <= clock_timestamp()
  or case when l.session is null then false else case
  when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
  else pg_try_advisory_xact_lock_shared(l.session) end end) then json_build_array(l.holder)::text end,
       l.queue is not null and (l.owner is null or l.expires_at <= clock_timestamp()
         or case when l.session is null then false else case
         when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
         else pg_try_advisory_xact_lock_shared(l.session) end end), l.owner is not distinct from m.owner, l.permits, l.used > 0, null
from missed as m, lateral (select * from "rowlock_locks" as l where l.name = m.name limit 1) as l

-- acquireEach
-- rowlock_acquire_1 for each, as acquireOne says. Nothing is waited for, so the order does not matter.
select a.i::int, r.token, r.takeover, r.checkpointed, r.holders::text, r.queued, r.ours, r.permits
from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::float8[],
            (select $4::text)::text[], (select $5::text)::bigint[]) with ordinality as a(name, owner, ttl, holder, session, i),
     lateral "rowlock_acquire_1"(a.name, a.owner, a.ttl, a.holder, a.session) as r

-- acquireShared
-- rowlock_share_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, and then the slots that have ended: so
-- what takes weights off, or adds them, goes one after the other, and no snapshot has a say in it. A slot that a guard
-- or another transaction has locked is skipped, and goes on counting. Nothing is waited for.
select a.i::int, r.token, r.slot, r.takeover, r.holders::text, r.queued, r.ours, r.unfit, r.permits
from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::int[], (select $4::text)::int[],
            (select $5::text)::float8[], (select $6::text)::text[], (select $7::text)::bigint[])
       with ordinality as a(name, owner, weight, permits, ttl, holder, session, i),
     lateral "rowlock_share_1"(a.name, a.owner, a.weight, a.permits, a.ttl, a.holder, a.session) as r

-- acquireIn
-- rowlock_within_1 (migrations/postgres) waits as long as it is told: for other transactions at an advisory lock, then
-- for a guard at the row, FOR UPDATE, which it judges as locked and keeps until the transaction ends. Who is refused
-- rolls back a subtransaction, and with it both locks.
select outcome, token, owner, holders::text, queued, permits, idle_limit_ms, pg_backend_pid() as backend
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
            else coalesce(case when l.used > 0 then "rowlock_sharers_1"(l.name, null)->>0 end,
                          case when (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) then 'others, who wait for it' end) end as leased_to
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
-- other, in the order of names, and to several of one lock by one change of its row: nobody comes in between. What is
-- locked, or has changed since the statement began, is answered as locked and asked again.
with asked as materialized (
  select * from json_to_recordset((select $1::text)::json)
    as a(i int, name text, joins text, count int, "waitMs" float8, tickets json)
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
    when coalesce(l.queue->-1->>'id' = a.joins, false)
      then jsonb_set(l.queue, '{-1}', l.queue->-1 || jsonb_build_object(
             'n', (l.queue->-1->>'n')::int + a.count,
             'until', greatest((l.queue->-1->>'until')::float8, (extract(epoch from clock_timestamp()) * 1000000)::bigint + a."waitMs" * 1000)))
    else coalesce(l.queue, '[]') end
    || (
      select coalesce(jsonb_agg(jsonb_build_object(
               'id', t.ticket, 'n', t.count, 'weight', t.weight, 'since', (extract(epoch from clock_timestamp()) * 1000000)::bigint, 'ttl', t."ttlMs", 'holder', t.holder, 'session', t.session,
               'process', t.process, 'listening', t.listening, 'provenAlive', t."provenAlive", 'until', (extract(epoch from clock_timestamp()) * 1000000)::bigint + t."waitMs" * 1000)
             || case when t.transaction then '{"transaction": true}' else '{}' end::jsonb order by t.i), '[]')
      from (
        select t.*, sum(t.count) over (order by t.i) as wanted
        from json_to_recordset(a.tickets)
          as t(i int, ticket text, count int, weight int, permits int, "ttlMs" float8, holder text, session text, process text,
               listening boolean, "provenAlive" boolean, transaction boolean, "waitMs" float8)
        where "rowlock_suits_1"(t.weight, t.permits, l.permits)
      ) as t
      where t.wanted + (select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e) <= $2::int
        and not (t.i = 1 and coalesce(l.queue->-1->>'id' = a.joins, false)))
  from open as a
  where l.ctid = a.place
    and (select t.count from json_to_recordset(a.tickets) as t(count int, weight int, permits int) where "rowlock_suits_1"(t.weight, t.permits, l.permits) limit 1)
        + (select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e) <= $2::int
  returning l.name,
       (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) as leases_wait,
       l.token::text as row_token, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders, case when l.queue is null or not (l.owner is null or l.expires_at <= clock_timestamp()
           or case when l.session is null then false else case
           when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
           else pg_try_advisory_xact_lock_shared(l.session) end end) then false
         when l.used = 0 then true
         else "rowlock_leaves_room_1"(l.name, l.queue, l.permits) end as promotable,
       jsonb_path_query_array(l.queue, '$[*].id')::text as tickets
)
select case when q.name is not null then 'queued'
            when l.place is null then 'missing'
            when l.place = (select place from open as o where o.i = a.i) then 'full' else 'locked' end as outcome,
       a.i, q.leases_wait, q.row_token, q.holders, q.promotable, q.tickets, l.permits
from asked as a
left join queued as q on q.name = a.name
left join lateral (select l.ctid as place, l.permits from "rowlock_locks" as l where l.name = a.name limit 1) as l on true

-- withdraw
-- The row is locked FOR NO KEY UPDATE SKIP LOCKED, and only tickets with these ids are made smaller. If one was handed
-- the lock just before, the answer says so; what is locked, or has changed since the statement began, is asked again.
with asked as materialized (
  select * from json_to_recordset((select $1::text)::json) as a(i int, name text, tickets json)
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
    select jsonb_agg(case when w.count is null then t else jsonb_set(t, '{n}', to_jsonb((t->>'n')::int - w.count)) end
                     order by position)
    from jsonb_array_elements(l.queue) with ordinality as q(t, position)
    left join json_to_recordset(a.tickets) as w(ticket text, count int) on w.ticket = t->>'id'
    where w.count is null or (t->>'n')::int > w.count)
  from open as a
  where l.ctid = a.place
  returning l.*
)
select a.i, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders, case when l.queue is null or not (l.owner is null or l.expires_at <= clock_timestamp()
           or case when l.session is null then false else case
           when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
           else pg_try_advisory_xact_lock_shared(l.session) end end) then false
         when l.used = 0 then true
         else "rowlock_leaves_room_1"(l.name, l.queue, l.permits) end as promotable, l.queue is not null and not l.found as locked
from asked as a, lateral (
  select true as found, l.* from left_behind as l where l.name = a.name
  union all select false as found, l.* from lateral (select * from "rowlock_locks" as l where l.name = a.name limit 1) as l
  limit 1
) as l

-- promote
-- rowlock_promote_1 (migrations/postgres) locks a row that nobody holds exclusively FOR UPDATE SKIP LOCKED, and judges
-- it as locked: of two who promote one finds it locked, or handed over by then. Whoever is given anything by others has
-- to lock the row, too. A slot under an open guard is skipped, and goes on counting.
select a.i::int, r.outcome, r.grants::text
from unnest((select $1::text)::text[]) with ordinality as a(name, i),
     lateral "rowlock_promote_1"(a.name, $2::text) as r

-- releaseOne
-- rowlock_release_1 (migrations/postgres) finds the row by name, owner and token, FOR UPDATE SKIP LOCKED, so one that
-- comes late or twice finds nothing. Under an open guard it ends the lease FOR NO KEY UPDATE, and nobody is given the
-- lock before that guard ends.
select outcome, promote_later, grants::text, case when grants is null then set_config('synchronous_commit', 'off', true) end
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
-- rowlock_release_1 for each, as releaseOne says, in the order of names.
with released as materialized (
  select a.i, r.outcome, r.promote_later, r.grants
  from (select * from unnest((select $1::text)::text[], (select $2::text)::text[], (select $3::text)::bigint[]) with ordinality as a(name, owner, token, i) order by name collate "C" limit (select 1000000)) as a, lateral "rowlock_release_1"(a.name, a.owner, a.token, $4::text) as r
)
select i::int, outcome, promote_later, grants::text,
       (select case when exists (select from released where grants is not null) then set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true) else set_config('synchronous_commit', 'off', true) end)
from released

-- releaseShared
-- rowlock_unshare_1 (migrations/postgres) locks the row of the lock and the slot FOR UPDATE SKIP LOCKED, takes the
-- weight off, and hands over in the same statement. If either is locked, it only ends the hold, FOR NO KEY UPDATE,
-- which passes a guard: the weight counts until a later grant gets both locks. By name, slot, owner and token, so one
-- that comes late or twice finds nothing.
with released as materialized (
  select a.i, r.outcome, r.promote_later, r.grants
  from (select * from unnest((select $1::text)::text[], (select $2::text)::int[], (select $3::text)::text[], (select $4::text)::bigint[]) with ordinality as a(name, slot, owner, token, i) order by name collate "C" limit (select 1000000)) as a, lateral "rowlock_unshare_1"(a.name, a.slot, a.owner, a.token, $5::text) as r
)
select i::int, outcome, promote_later, grants::text,
       (select case when exists (select from released where grants is not null) then set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true) else set_config('synchronous_commit', 'off', true) end)
from released

-- releaseIn
-- In the caller's transaction. It waits for a statement that has the row, bounded by the caller's settings, and finds
-- it by name, owner and token then; from then until the commit all others find the row locked, so nobody has the lock
-- before.
update "rowlock_locks" as l
set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
where name = $1::text and owner = $2::text and token = $3::bigint
returning queue is not null as awaited

-- releaseSharedIn
-- In the caller's transaction. It waits for a statement that has the slot, bounded by the caller's settings. From then
-- until the commit the slot is locked, so the hold counts, and after a rollback it stands; the weight stays until a
-- later grant takes it off.
update "rowlock_slots" as l
set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
where name = $1::text and slot = $2::int and owner = $3::text and token = $4::bigint
returning (select k.queue is not null from "rowlock_locks" as k where k.name = l.name) as awaited

-- adoptIn
-- In the caller's transaction: ends the hold with its commit, if it has not run out. The slot is locked until then, so
-- no grant takes the weight off, whatever the expiry says. It waits for a statement that has the slot, bounded by the
-- caller's settings; of a hold that others took off there is no slot of this owner and token.
with adopted as (
  update "rowlock_slots" as l
  set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
  where name = $1::text and slot = $2::int and owner = $3::text and token = $4::bigint and expires_at > clock_timestamp()
  returning true
)
select exists (select from adopted) as stands,
       current_setting('transaction_isolation') in ('repeatable read', 'serializable') as reads_snapshot

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
  returning mine.i, l.expires_at
)
select a.i::int,
       case when r.i is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
       r.i is null and a.i in (select i from mine) as changed,
       extract(epoch from coalesce(r.expires_at, l.expires_at) - clock_timestamp())::float8 * 1000 as remaining,
       (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true))
from asked as a
left join renewed as r on r.i = a.i
left join lateral (
  select l.name, l.expires_at from "rowlock_locks" as l
  where r.i is null and (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
  limit 1
) as l on true

-- renewShared
-- As renew, of slots. A weight does not change, so the row of the lock is not needed.
with asked as materialized (
  select * from unnest((select $1::text)::text[], (select $2::text)::int[], (select $3::text)::text[], (select $4::text)::bigint[], (select $5::text)::float8[])
                with ordinality as a(name, slot, owner, token, ttl, i)
  order by name collate "C"
), mine as (
  select l.ctid as place, a.ttl, a.i from asked as a, lateral (
    select l.ctid from "rowlock_slots" as l
    where (l.name, l.slot, l.owner, l.token) = (a.name, a.slot, a.owner, a.token) and l.expires_at > clock_timestamp()
    for no key update skip locked
  ) as l
  limit (select 1000000)
), renewed as (
  update "rowlock_slots" as l
  set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms'), handed_to = null
  from mine
  where l.ctid = mine.place
  returning mine.i, l.expires_at
)
select a.i::int,
       case when r.i is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
       r.i is null and a.i in (select i from mine) as changed,
       extract(epoch from coalesce(r.expires_at, l.expires_at) - clock_timestamp())::float8 * 1000 as remaining,
       (select set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true))
from asked as a
left join renewed as r on r.i = a.i
left join lateral (
  select l.name, l.expires_at from "rowlock_slots" as l
  where r.i is null and (l.name, l.slot, l.owner, l.token) = (a.name, a.slot, a.owner, a.token) and l.expires_at > clock_timestamp()
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

-- guardShared
-- In the caller's transaction: FOR KEY SHARE of the slot until it ends. Whoever takes the hold off locks the slot FOR
-- UPDATE SKIP LOCKED, and finds that it counts. Guards of other slots, and grants of them, do not meet it.
select expires_at > clock_timestamp() as stands
from "rowlock_slots"
where name = $1::text and slot = $2::int and owner = $3::text and token = $4::bigint
for key share

-- guardManyShared
-- As guardShared, in the order of names and slots, so that two transactions that guard the same holds do not wait in a
-- circle.
select a.i::int, l.expires_at > clock_timestamp() as stands
from "rowlock_slots" as l
join unnest((select $1::text)::text[], (select $2::text)::int[], (select $3::text)::text[], (select $4::text)::bigint[]) with ordinality as a(name, slot, owner, token, i)
  on (a.name, a.slot, a.owner, a.token) = (l.name, l.slot, l.owner, l.token)
order by l.name, l.slot
for key share of l

-- poll
-- Reads, and locks no row; whether a session is gone it finds by trying for its advisory lock. What it says may be over
-- at once: promote and acquire judge again.
select a.i::int,
       (coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or exists (select from "rowlock_gates" as g where g.name = l.name and g.closed_until > clock_timestamp())) as leases_wait,
       l.token::text as row_token, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders, case when l.queue is null or not (l.owner is null or l.expires_at <= clock_timestamp()
           or case when l.session is null then false else case
           when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
           else pg_try_advisory_xact_lock_shared(l.session) end end) then false
         when l.used = 0 then true
         else "rowlock_leaves_room_1"(l.name, l.queue, l.permits) end as promotable,
       jsonb_path_query_array(l.queue, '$[*].id')::text as tickets
from unnest((select $1::text)::text[]) with ordinality as a(name, i),
     lateral (select * from "rowlock_locks" as l where l.name = a.name limit 1) as l

-- list
-- Reads, and locks no row. What it says may be over at once, and is for people.
select s.*
from (
  select l.name, l.permits, l.queue::text as queue, (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders
  from "rowlock_locks" as l
  where starts_with(l.name, $1::text) and (l.used > 0 or not (l.owner is null or l.expires_at <= clock_timestamp()
    or case when l.session is null then false else case
    when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
    else pg_try_advisory_xact_lock_shared(l.session) end end))
) as s
where s.holders is not null
order by s.name

-- inspect
-- Reads, and locks no row. What it says may be over at once, and is for people.
select s.*
from (
  select l.name, l.permits, l.queue::text as queue, (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders
  from "rowlock_locks" as l
  where l.name = $1::text and (l.used > 0 or not (l.owner is null or l.expires_at <= clock_timestamp()
    or case when l.session is null then false else case
    when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
    else pg_try_advisory_xact_lock_shared(l.session) end end))
) as s
where s.holders is not null
order by s.name

-- forceRelease
-- rowlock_force_release_1 (migrations/postgres) locks the row, and all slots that count, FOR UPDATE SKIP LOCKED: an
-- open guard is not overtaken but answered as held. The token rises: what a former holder still sends, a guard or a
-- release, finds nothing.
select outcome from "rowlock_force_release_1"($1::text, $2::bigint) as outcome

-- purge
-- rowlock_purge_1 (migrations/postgres) locks idle rows, and then their slots, FOR UPDATE SKIP LOCKED and judges them
-- as locked: who takes one at the same time has it locked, and it stays, or finds none and creates one. That has the
-- clock for a token, which is above those of all rows that go. A slot that was made, and left, in that very moment may
-- stay behind, free, for the next lock of its name.
select purged from "rowlock_purge_1"($1::float8) as purged

-- openSemaphore
-- rowlock_open_1 (migrations/postgres) inserts a row if there is none. Of two who do, one gets the advisory lock, for
-- which they only try, and the other one is told to try again.
select permits from "rowlock_open_1"($1::text, $2::int) as permits

-- resize
-- rowlock_resize_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, as everybody does who takes permits, and
-- so is before or after them. What is there more is handed over in the same statement.
select outcome, grants::text
from "rowlock_resize_1"($1::text, $2::int, $3::text)

-- available
-- Reads, and locks no row. What it says may be over at once.
select l.permits, (
         select json_agg(json_build_object(
           'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', extract(epoch from h.expires_at - clock_timestamp())::float8 * 1000,
           'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
           'weight', h.weight, 'slot', h.slot) order by h.token)
         from (
           select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
           where not (l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null then false else case
             when l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
             else pg_try_advisory_xact_lock_shared(l.session) end end)
           union all
           select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
           from "rowlock_slots" as s
           where l.used > 0 and s.name = l.name and s.owner is not null and s.expires_at > clock_timestamp()
             and not case when s.session is null then false else case
               when s.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
               else pg_try_advisory_xact_lock_shared(s.session) end end
         ) as h)::text as holders
from "rowlock_locks" as l
where l.name = $1::text

-- downgrade
-- rowlock_downgrade_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, by name, owner and token, and moves
-- the hold to a slot in the same statement: nobody comes in between. While a guard has the row it is answered as
-- locked. Asked again, it finds the slot.
select outcome, slot, grants::text
from "rowlock_downgrade_1"($1::text, $2::text, $3::bigint, $4::text)

-- publishWaits
-- Writes the row of this process, or deletes it, which nobody else locks but purge, once it is old, for the length of
-- that statement. The others are read, and no row of them is locked; what they say just after is read the next time. It
-- grants nothing.
with said as (
  insert into "rowlock_waits" as w (process, said_at, waits)
  select $1::text, clock_timestamp(), $2::text
  where $2::text is not null
  on conflict (process) do update set said_at = excluded.said_at, waits = excluded.waits
), unsaid as (
  delete from "rowlock_waits" as w where w.process = $1::text and $2::text is null
)
select (extract(epoch from clock_timestamp()) * 1000)::float8 as now, w.process, (extract(epoch from w.said_at) * 1000)::float8 as said_at, w.waits, set_config('synchronous_commit', 'off', true)
from (select) as one
left join "rowlock_waits" as w
  on w.process <> $1::text
  and w.said_at > clock_timestamp() - 2000 * interval '1 ms'

-- readMarksOf
-- Reads, and locks no row. What is written just after is read the next time.
select (extract(epoch from clock_timestamp()) * 1000)::float8 as now, m.kind, m.name, m.part, m.value, m.token::text as token
from (select) as one
left join "rowlock_marks" as m
  on m.kind = $1::text and m.name = $2::text and (m.expires_at <= clock_timestamp()) is not true

-- readMarks
-- As readMarksOf.
select (extract(epoch from clock_timestamp()) * 1000)::float8 as now, m.kind, m.name, m.part, m.value, m.token::text as token
from unnest((select $1::text)::text[]) as a(name)
left join "rowlock_marks" as m on m.kind = $2::text and m.name = a.name and (m.expires_at <= clock_timestamp()) is not true

-- writeMarkUnder
-- Locks the row of the lock FOR KEY SHARE SKIP LOCKED, as a guard does, and judges it as locked: until the commit,
-- which the same statement makes, nobody is granted the lock. A row that others have locked is skipped, and the caller
-- asks again. The mark is the holder's alone to write; one with a higher token stays.
with held as materialized (
  select from "rowlock_locks" as l where l.name = $1::text and l.owner = $2::text and l.token = $3::bigint and l.expires_at > clock_timestamp() for key share skip locked
), written as (
  insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at)
  select
  $4::text, $1::text, $5::text, $6::text, $3::bigint,
  clock_timestamp(), clock_timestamp() + $7::float8 * interval '1 ms'
  from held
  on conflict (kind, name, part) do update
  set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
  where m.token <= excluded.token
  returning 1
)
select exists (select from written) as written, exists (select from "rowlock_locks" as l where l.name = $1::text and l.owner = $2::text and l.token = $3::bigint and l.expires_at > clock_timestamp()) as ours, set_config('synchronous_commit', case current_setting('synchronous_commit')
                                               when 'off' then 'on' else current_setting('synchronous_commit') end, true)

-- writeMark
-- By the primary key, for the length of this statement. One with a higher token stays, whoever comes first.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  $1::text, $2::text, $3::text, $4::text, $5::bigint,
  clock_timestamp(), clock_timestamp() + $6::float8 * interval '1 ms')
  on conflict (kind, name, part) do update
  set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
  where m.token <= excluded.token

-- deleteMark
-- By the primary key, as writeMark. A mark with a higher token stays.
delete from "rowlock_marks"
where kind = $1::text and name = $2::text and part = $3::text and token <= $4::bigint

-- beginMark
-- In a transaction that has the lock of that name, so nobody else makes a mark of it meanwhile. One that a snapshot
-- does not see ends the transaction. Whoever purges it just before makes no difference: it is past its time.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  $1::text, $2::text, $3::text, $4::text, $5::bigint,
  clock_timestamp(), clock_timestamp() + $6::float8 * interval '1 ms')
  on conflict (kind, name, part) do update
  set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at
  where m.expires_at <= clock_timestamp()
returning 1 as begun

-- writeMarkIn
-- In a transaction that has the lock of that name, or guards it: nobody else writes this mark.
insert into "rowlock_marks" as m (kind, name, part, value, token, written_at, expires_at) values (
  $1::text, $2::text, $3::text, $4::text, $5::bigint,
  clock_timestamp(), clock_timestamp() + $6::float8 * interval '1 ms')
  on conflict (kind, name, part) do update
  set value = excluded.value, token = excluded.token, written_at = excluded.written_at, expires_at = excluded.expires_at

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
