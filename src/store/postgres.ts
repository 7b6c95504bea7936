import { randomBytes } from 'node:crypto'
import { type RawBuilder, sql } from 'kysely'
import {
  type Connection,
  type DedicatedConnection,
  type Result,
  type SqlAdapter,
  type Statement,
  transactionLeftOpen,
} from '../adapters/adapter.ts'
import { DatabaseError, LockError, LockLostError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, quoted, tableName } from '../migrate.ts'
import type { OwnConnection } from '../own-connection.ts'
import { checkRow, otherShape, toBoolean, toNumber } from './shape.ts'
import {
  cutShort,
  databaseError,
  isConnectionFailure,
  isPoolTimeout,
  missingRight,
  noRoom,
  notMigrated,
  Runner,
  readOnly,
  statement,
  statementName,
  transactionAborted,
} from './statement.ts'
import {
  type Arrival,
  type ArrivalResult,
  type Attempt,
  type AttemptInResult,
  type AttemptResult,
  type CallerQuery,
  CLAIM_MS,
  type Departure,
  type Gate,
  type Grant,
  type GuardResult,
  type Hold,
  type HolderSession,
  type Listening,
  type LockState,
  type ReleaseResult,
  type Renewal,
  type Settlement,
  type Sight,
  type Store,
} from './store.ts'
import { assess, readTopology } from './topology.ts'

/** Spreads the transaction-level advisory locks of those who migrate the same tables: CREATE TABLE IF NOT EXISTS races. */
const MIGRATION_SEED = 8245928
/** Taken by whoever finds its schema missing, which several prefixes may share. */
const SCHEMA_LOCK = '8245928655720965490'

/** Microseconds since 1970 by the server's clock: what a token is at least. */
const clockToken = sql`(extract(epoch from clock_timestamp()) * 1000000)::bigint`

/** Milliseconds from now. */
const leftOf = (expiry: RawBuilder<unknown>) => sql`extract(epoch from ${expiry} - clock_timestamp())::float8 * 1000`

/**
 * True when the session that holds the advisory lock `key` is gone. Keys are random and never reused, so a dead session stays
 * dead. The shared lock is ours only until the statement ends, and shared locks do not disturb each other. No session is in its
 * own way, so rowlock's own connection has a setting that lists the locks it holds itself.
 */
const sessionEnded = (key: RawBuilder<unknown>) => sql`case
      when ${key}::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
      else pg_try_advisory_xact_lock_shared(${key}) end`
const sessionGone = sql`case when l.session is null then false else ${sessionEnded(sql`l.session`)} end`

/**
 * What is asked, as text that the planner cannot see into. It would take the length of arrays into account, find plans for that
 * length cheaper than one for all, and so plan a prepared statement anew each time, which takes longer than executing it.
 */
const unseen = (text: RawBuilder<string>) => sql`(select ${text}::text)`

/**
 * The planner believes a table small that nobody has analyzed yet, and would rather read all of it, dead rows included, than
 * look up as many names as it expects. Behind a limit that it cannot see into it expects few.
 */
const few = sql`limit (select 1000000)`

/**
 * Always true, and never worked out. For statements that look up many rows at once, of which the planner expects ten: it adds
 * up what a condition costs for each row that it would read, and this one, with its thousand numbers, makes reading a table of
 * more than a dozen rows dearer than looking names or places up.
 */
const lookedUp = sql`case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end`

/** A process that closes a gate opens it again; should it be gone, the gate opens after that time. */
const GATE_MS = 1000
/** Keeps the advisory locks below apart from others'. */
const ADVISORY_SEED = 7239615

/**
 * The advisory lock at which transactions wait for each other, and which guards the creation of `name` in the table of locks
 * (`table`, quoted); migrations/postgres says the same. Advisory locks belong to the
 * whole database, so the table is part of the key: by its oid, which is the same for all who use that table, however they
 * came to name it, and another one where search_path leads to another schema. A constant for the server, looked up once.
 */
export function advisoryKey(table: string, name: RawBuilder<unknown>): RawBuilder<unknown> {
  const oid = sql`${sql.lit(table)}::regclass::oid`
  return sql`hashtextextended(${oid} || ' ' || ${name}, ${sql.lit(ADVISORY_SEED)})`
}

interface Asked {
  readonly names: string
  readonly owners: string
  readonly ttls: string
  readonly holders: string
  readonly sessions: string
}

/** Attempts of which each wants the same. */
interface Alike {
  readonly names: string
  readonly owner: string
  readonly count: number
  readonly ttlMs: number | null
  readonly holder: string
  readonly session: string | null
}

interface Held {
  readonly names: string
  readonly owners: string
  readonly tokens: string
}

/**
 * PostgreSQL. Every statement reads clock_timestamp() after it has the row lock: now() is the start of the transaction.
 *
 * Strengths of row locks: whatever changes the owner to somebody else locks FOR UPDATE; a guard locks FOR KEY SHARE, which
 * makes that wait; renewing, queueing and releasing lock FOR NO KEY UPDATE, which passes a guard. SKIP LOCKED: nothing here
 * waits, so no order of names can deadlock.
 *
 * There is an exception: a row that was changed after the statement began, while a guard of it is open. From the version that
 * the snapshot sees, FOR NO KEY UPDATE SKIP LOCKED goes on to the newest one, and waits for whoever has that locked. So it
 * goes in the order of names, and changes a row at its place, where nothing is found in that case (answered as a row that is
 * locked): by its name it would find the old version, and wait for those who go on from there, and they for it.
 *
 * What is asked comes as arrays, so that one statement serves many callers; what one caller asks most has statements of its own.
 */
export function postgresStatements(naming: Naming) {
  const table = tableName('postgres', 'locks', naming)
  const locks = sql.raw(table)
  const gates = sql.raw(tableName('postgres', 'gates', naming))
  const within = sql.raw(tableName('postgres', 'within_1', naming))
  const engine = 'postgres'

  /** Nobody holds `l`. Released is free even if the clock was set back since. */
  const free = sql`(l.owner is null or l.expires_at <= clock_timestamp() or ${sessionGone})`

  /**
   * Releases each lock that `source` has locked, or rather hands it to the first living caller in its queue. Those before it
   * in the queue are dead and leave it. LIMIT without ORDER BY: the elements come in their order, and sorting them would
   * first ask for all of them whether they live. A process with a listening session holds an advisory lock there, so one that
   * can be locked is gone.
   */
  const handOver = (process: RawBuilder<string>) => sql`
        update ${locks} as l
        set owner = (n.entry->>'id') || lpad(to_hex(n.next_token), 16, '0'),
            token = case when n.entry is null then l.token else n.next_token end,
            expires_at = case when n.entry is null then least(l.expires_at, clock_timestamp())
                              else clock_timestamp() + least((n.entry->>'ttl')::float8, ${sql.lit(CLAIM_MS)}) * interval '1 ms' end,
            holder = coalesce(n.entry->>'holder', l.holder),
            session = (n.entry->>'session')::bigint,
            handed_to = n.entry->>'process',
            takeover = n.takeover and n.entry is not null,
            queue = case when n.entry is null then null
                         when (n.entry->>'n')::int > 1
                           then jsonb_set(jsonb_path_query_array(n.queue, ('$[' || n.position - 1 || ' to last]')::jsonpath),
                                          '{0,n}', to_jsonb((n.entry->>'n')::int - 1))
                         else nullif(jsonb_path_query_array(n.queue, ('$[' || n.position || ' to last]')::jsonpath), '[]') end
        from (
          select s.name, s.takeover, s.queue, greatest(s.token + 1, ${clockToken}) as next_token, e.entry, e.position
          from source as s left join lateral (
            select entry, position from jsonb_array_elements(s.queue) with ordinality as e(entry, position)
            where (entry->>'until')::float8 > ${clockToken}
              and case when (entry->>'provenAlive')::boolean
                       then not ${sessionEnded(sql`(entry->>'process')::bigint`)} else true end
            limit 1
          ) as e on true
        ) as n
        where l.name = n.name
        returning l.name, l.owner, l.token::text as token, l.takeover, l.handed_to as process, ${leftOf(sql`l.expires_at`)} as remaining,
                  case when (n.entry->>'listening')::boolean and l.handed_to <> ${process}::text
                       then pg_notify('rowlock_' || l.handed_to,
                                      json_build_object('name', l.name, 'owner', l.owner, 'token', l.token::text, 'takeover', l.takeover,
                                                        'expiresAt', extract(epoch from l.expires_at)::float8 * 1000)::text)::text end as notified`

  /** The row of the lock that `asked` names, looked up by its name (see `few`). */
  const rowOf = (asked: RawBuilder<unknown>) =>
    sql`lateral (select * from ${locks} as l where l.name = ${asked}.name limit 1) as l`

  /** How many callers wait for `l`. */
  const waiting = sql`select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e`

  /**
   * Who is told of a grant counts on it, also where commits are asynchronous by default. Read at the commit, so its place in
   * the statement does not matter. Waiting for replicas, if set, is left as it is.
   */
  const durable = sql`set_config('synchronous_commit', case current_setting('synchronous_commit')
                                                       when 'off' then 'on' else current_setting('synchronous_commit') end, true)`

  const gateClosed = sql`exists (select from ${gates} as g where g.name = l.name and g.closed_until > clock_timestamp())`

  /** What a waiter sees of `l`. */
  const sight = sql`
               coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or ${gateClosed} as leases_wait,
               l.owner, l.token::text, l.holder as label, l.takeover,
               ${leftOf(sql`l.expires_at`)} as remaining,
               l.session is not null as by_session, ${free} as free,
               jsonb_path_query_array(l.queue, '$[*].id')::text as entries`

  /**
   * WHO GETS A LOCK is decided here: those rows that are free are locked, and looked at again as locked. Nobody who waits is
   * passed over, and an attempt that is repeated finds its own.
   */
  const obtained = (which: RawBuilder<unknown>, owner: RawBuilder<unknown>) => sql`
            select l.ctid from ${locks} as l
            where ${which} and (l.queue is null and ${free} or l.owner = ${owner})
            for update skip locked`

  /** Makes `l` a hold of `owner`'s. The clock is read once for all new tokens. */
  const take = (a: { [Key in 'owner' | 'ttl' | 'holder' | 'session']: RawBuilder<unknown> }) => sql`
        update ${locks} as l
        set owner = case when ${a.ttl} is not null then ${a.owner} end,
            token = case when l.owner = ${a.owner} then l.token else greatest(l.token + 1, (select ${clockToken})) end,
            expires_at = clock_timestamp() + coalesce(${a.ttl}, 0) * interval '1 ms',
            holder = ${a.holder},
            session = ${a.session},
            handed_to = null,
            takeover = case when l.owner = ${a.owner} then l.takeover else l.owner is not null end`

  const typed = (p: { [Key in 'owner' | 'ttlMs' | 'holder' | 'session']: RawBuilder<unknown> }) => ({
    owner: sql`${p.owner}::text`,
    ttl: sql`${p.ttlMs}::float8`,
    holder: sql`${p.holder}::text`,
    session: sql`${p.session}::bigint`,
  })

  const attempts = (p: { [Name in keyof Asked]: RawBuilder<string> }) =>
    sql`unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.ttls)}::float8[],
                      ${unseen(p.holders)}::text[], ${unseen(p.sessions)}::bigint[]) with ordinality`

  /** The names of those that were found; null if that is all of `count`, as is usual, since listing them is work for both sides. */
  const unlessAll = (count: RawBuilder<number>) =>
    sql`case when count(*) < ${count}::int then json_agg(name)::text end as names`

  const holds = (p: { [Name in keyof Held]: RawBuilder<string> }) =>
    sql`unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[]) with ordinality`

  return {
    // For one caller, or many, who find what they want free. It is quicker to find the row by its place, where it is not any
    // more if it has changed since the statement began: that is for the statement after these.
    takeOne: statement<Attempt>(engine, (p) => {
      const terms = typed(p)
      return sql`
        ${take(terms)}
        where l.ctid = (${obtained(sql`l.name = ${p.name}::text`, terms.owner)})
        returning null as names, l.token::text, l.takeover, ${durable}`
    }),

    take: statement<Alike>(engine, (p) => {
      const terms = typed(p)
      return sql`
        with taken as (
          ${take(terms)}
          where l.ctid = any(array(${obtained(sql`l.name = any(${unseen(p.names)}::text[]) and ${lookedUp}`, terms.owner)})) and ${lookedUp}
          returning l.name, l.token, l.takeover
        )
        select ${unlessAll(p.count)}, token::text, takeover, ${durable}
        from taken group by token, takeover`
    }),

    // For those whom these leave without an answer: creates the row of a new name, or tells who has the lock. The advisory
    // lock keeps two inserts of one new name apart, of which one would wait for the other's transaction.
    acquire: statement<Asked>(
      engine,
      (p) => sql`
        with asked as materialized (
          select name, owner, i, ttl, holder, session
          from ${attempts(p)} as a(name, owner, ttl, holder, session, i)
        ), free as (
          select a.*
          from asked as a, lateral (${obtained(sql`l.name = a.name`, sql`a.owner`)}) as l
          ${few}
        ), taken as (
          ${take({ owner: sql`f.owner`, ttl: sql`f.ttl`, holder: sql`f.holder`, session: sql`f.session` })}
          from free as f
          where l.name = f.name
          returning f.i, l.token, l.takeover
        ), missed as materialized (
          select * from asked as a where not exists (select from taken as t where t.i = a.i)
        ), created as (
          insert into ${locks} (name, owner, token, expires_at, holder, session)
          select m.name, case when m.ttl is not null then m.owner end, ${clockToken},
                 clock_timestamp() + coalesce(m.ttl, 0) * interval '1 ms', m.holder, m.session
          from missed as m
          where case when (select true from ${locks} as l where l.name = m.name) then false
                     else pg_try_advisory_xact_lock(${advisoryKey(table, sql`m.name`)}) end
          on conflict (name) do nothing
          returning name, token
        )
        select i::int, token::text, takeover, null as holder, false as queued, false as ours, (select ${durable}) from taken
        union all
        select m.i::int, c.token::text, false, null, false, false, (select ${durable}) from created as c join missed as m on m.name = c.name
        union all
        select m.i::int, null, false, case when l.expires_at > clock_timestamp() then l.holder end,
               l.queue is not null and ${free}, l.owner is not distinct from m.owner, null
        from missed as m, ${rowOf(sql`m`)}`,
    ),

    enqueue: statement<{ arrivals: string; maxWaiters: number }>(
      engine,
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.arrivals)}::json)
            as a(i int, name text, count int, entry text, joins text, "ttlMs" float8, holder text, session text, process text,
                 listening boolean, "provenAlive" boolean, transaction boolean, "waitMs" float8)
          order by name collate "C"
          ${few}
        ), open as (
          select a.*, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l where l.name = a.name for no key update skip locked
          ) as l
          ${few}
        ), queued as (
          update ${locks} as l
          set queue = case
            when l.queue->-1->>'id' = a.joins
              then jsonb_set(l.queue, '{-1}', l.queue->-1 || jsonb_build_object(
                     'n', (l.queue->-1->>'n')::int + a.count,
                     'until', greatest((l.queue->-1->>'until')::float8, ${clockToken} + a."waitMs" * 1000)))
            else coalesce(l.queue, '[]') || (jsonb_build_object(
                     'id', a.entry, 'n', a.count, 'ttl', a."ttlMs", 'holder', a.holder, 'session', a.session,
                     'process', a.process, 'listening', a.listening, 'provenAlive', a."provenAlive", 'until', ${clockToken} + a."waitMs" * 1000)
                   || case when a.transaction then '{"transaction": true}' else '{}' end::jsonb) end
          from open as a
          where l.ctid = a.place and a.count + (${waiting}) <= ${p.maxWaiters}::int
          returning l.name, l.queue->-1->>'id' as entry, ${sight}
        )
        select case when q.name is not null then 'queued'
                    when (select l.ctid from ${locks} as l where l.name = a.name) = (select place from open as o where o.i = a.i) then 'full'
                    when (select true from ${locks} as l where l.name = a.name) then 'locked' else 'missing' end as outcome,
               a.i, q.entry, q.leases_wait, q.owner, q.token, q.label, q.takeover, q.remaining, q.by_session, q.free, q.entries
        from asked as a left join queued as q on q.name = a.name`,
    ),

    // Whoever finds the row changed since the statement began has not left, and asks again.
    leave: statement<{ departures: string }>(
      engine,
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.departures)}::json) as a(i int, name text, entry text, count int)
          order by name collate "C"
          ${few}
        ), open as (
          select a.*, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l where l.name = a.name and l.queue is not null for no key update skip locked
          ) as l
          ${few}
        ), left_behind as (
          update ${locks} as l
          set queue = (
            select jsonb_agg(case when e->>'id' = a.entry then jsonb_set(e, '{n}', to_jsonb((e->>'n')::int - a.count)) else e end
                             order by position)
            from jsonb_array_elements(l.queue) with ordinality as q(e, position)
            where e->>'id' <> a.entry or (e->>'n')::int > a.count)
          from open as a
          where l.ctid = a.place
          returning l.*
        )
        select a.i, case when left(l.owner, 16) = a.entry and l.expires_at > clock_timestamp() then l.owner end as owner,
               l.token::text, l.takeover, l.handed_to as process,
               ${leftOf(sql`l.expires_at`)} as remaining,
               l.queue is not null and not l.found as locked
        from asked as a, lateral (
          select true as found, l.* from left_behind as l where l.name = a.name
          union all select false as found, l.* from ${rowOf(sql`a`)}
          limit 1
        ) as l`,
    ),

    look: statement<{ names: string }>(
      engine,
      (p) => sql`
        select a.i::int, ${sight}
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i),
             ${rowOf(sql`a`)}`,
    ),

    // A hand-off that ran out unclaimed: its process is gone or stands still, so none of its callers is next.
    settle: statement<{ names: string; process: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select l.name, l.token, l.owner is not null as takeover,
                 case when l.owner is null or l.handed_to is null then l.queue
                      else nullif(jsonb_path_query_array(l.queue, ('$[*] ? (@.process != "' || l.handed_to || '")')::jsonpath), '[]')
                      end as queue
          from unnest(${unseen(p.names)}::text[]) as a(name), lateral (
            select * from ${locks} as l
            where l.name = a.name and l.queue is not null and ${free}
            for update skip locked
          ) as l
          ${few}
        ), changed as (${handOver(p.process)})
        select a.i::int, c.owner, c.token, c.takeover, c.process, c.remaining,
               case when c.owner is not null then 'handed over'
                    when c.name is not null or (l.queue is null and ${free}) then 'idle'
                    when ${free} then 'locked' else 'held' end as outcome,
               (select ${durable} where exists (select from changed where owner is not null))
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i)
        cross join ${rowOf(sql`a`)}
        left join changed as c on c.name = a.name`,
    ),

    // A renewal never shortens: a late one is harmless.
    renew: statement<{ names: string; owners: string; tokens: string; ttls: string }>(
      engine,
      (p) => sql`
        with asked as materialized (
          select * from unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[], ${unseen(p.ttls)}::float8[])
                        with ordinality as a(name, owner, token, ttl, i)
          order by name collate "C"
        ), mine as (
          select l.ctid as place, a.ttl, a.i from asked as a, lateral (
            select l.ctid from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
            for no key update skip locked
          ) as l
          ${few}
        ), renewed as (
          update ${locks} as l
          set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms'), handed_to = null
          from mine
          where l.ctid = mine.place
          returning l.name, l.expires_at
        )
        select a.i::int,
               case when r.name is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
               r.name is null and a.i in (select i from mine) as changed,
               ${leftOf(sql`coalesce(r.expires_at, l.expires_at)`)} as remaining,
               (select ${durable})
        from asked as a
        left join renewed as r on r.name = a.name
        left join lateral (
          select l.name, l.expires_at from ${locks} as l
          where r.name is null and (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
          limit 1
        ) as l on true`,
    ),

    // A release that a crash undoes costs the next holder one ttl, so its commit need not wait for the disk. This is the way
    // of many holders for whom nobody waits.
    giveBack: statement<{ holds: string; count: number }>(
      engine,
      (p) => sql`
        with asked as materialized (
          select ${p.holds}::text::jsonb as holds
        ), given as (
          update ${locks} as l
          set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
          where l.ctid = any(array(
            select l.ctid from ${locks} as l
            where l.name = any(array(select jsonb_object_keys(holds) from asked)) and ${lookedUp}
              and (select holds from asked) ->> l.name = l.owner || ' ' || l.token
              and l.queue is null
            order by l.name collate "C"
            for no key update skip locked
          )) and ${lookedUp}
          returning l.name
        )
        select ${unlessAll(p.count)}, set_config('synchronous_commit', 'off', true) from given having count(*) > 0`,
    ),

    // Whoever waits is handed the lock, which makes the commit wait for the disk after all.
    releaseOne: statement<Hold & { process: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select l.name, l.token, l.queue, false as takeover
          from ${locks} as l
          where l.name = ${p.name}::text and l.owner = ${p.owner}::text and l.token = ${p.token}::bigint
          for update skip locked
        ) ${handOver(p.process)},
          case when n.entry is null then set_config('synchronous_commit', 'off', true) else ${durable} end`,
    ),

    release: statement<Held & { process: string }>(
      engine,
      (p) => sql`
        with asked as materialized (
          select * from ${holds(p)} as a(name, owner, token, i)
        ), source as materialized (
          select l.* from asked as a, lateral (
            select l.name, l.token, l.queue, false as takeover
            from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
            for update skip locked
          ) as l
          ${few}
        ), changed as (${handOver(p.process)})
        select a.i::int, c.name is not null as released,
               case when c.name is null
                    then (select true from ${locks} as l where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)) end as ours,
               c.owner, c.token, c.takeover, c.process, c.remaining,
               (select case when exists (select from changed where owner is not null) then ${durable}
                            else set_config('synchronous_commit', 'off', true) end)
        from asked as a left join changed as c on c.name = a.name`,
    ),

    // While a guarded transaction is open, nobody can be given the lock; but its lease may end.
    releaseGuarded: statement<Held>(
      engine,
      (p) => sql`
        with asked as materialized (
          select * from ${holds(p)} as a(name, owner, token, i) order by name collate "C"
        ), mine as (
          select a.i, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
            for no key update skip locked
          ) as l
          ${few}
        )
        update ${locks} as l
        set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())
        from mine
        where l.ctid = mine.place
        returning mine.i::int, l.queue is not null as awaited`,
    ),

    releaseIn: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, session = null, handed_to = null, expires_at = least(expires_at, clock_timestamp())
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        returning queue is not null as awaited`,
    ),

    // In the caller's transaction: migrations/postgres tells what it does. The one statement that waits.
    within: statement<{ name: string; owner: string; ttlMs: number | null; holder: string; waitMs: number }>(
      engine,
      (p) => sql`
        select outcome, token, owner, holder, idle_limit_ms, pg_backend_pid() as backend
        from ${within}(${p.name}::text, ${p.owner}::text, ${p.ttlMs}::float8, ${p.holder}::text, ${p.waitMs}::float8)`,
    ),

    // Transactions that hold an advisory lock, and whether they wait for another lock themselves.
    lookAtTransactions: statement<{ names: string }>(
      engine,
      (p) => sql`
        select a.i::int, t.pid is not null as taken,
               t.pid is not null and exists (select from pg_locks as w where w.pid = t.pid and not w.granted) as blocked
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i)
        left join lateral (
          select pid from pg_locks
          where locktype = 'advisory' and granted and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())
            and classid::bigint = (${advisoryKey(table, sql`a.name`)} >> 32) & 4294967295
            and objid::bigint = ${advisoryKey(table, sql`a.name`)} & 4294967295
          limit 1
        ) as t on true`,
    ),

    hasWritten: statement<{ backend: number }>(
      engine,
      (p) => sql`
        select exists (select from pg_locks where pid = ${p.backend}::int and locktype = 'transactionid' and granted) as written`,
    ),

    // Nothing depends on these but fairness, so their commits need not wait for the disk. They wait for rows, in one order.
    closeGates: statement<{ names: string; closers: string }>(
      engine,
      (p) => sql`
        insert into ${gates} as g (name, closed_until, closed_by)
        select name, clock_timestamp() + ${sql.lit(GATE_MS)} * interval '1 ms', closer
        from unnest(${p.names}::text::text[], ${p.closers}::text::text[]) as a(name, closer)
        order by name collate "C"
        on conflict (name) do update set closed_until = excluded.closed_until, closed_by = excluded.closed_by
        returning set_config('synchronous_commit', 'off', true)`,
    ),

    openGates: statement<{ names: string; closers: string }>(
      engine,
      (p) => sql`
        update ${gates} as g set closed_until = clock_timestamp()
        from unnest(${p.names}::text::text[], ${p.closers}::text::text[]) as a(name, closer)
        where g.name = a.name and g.closed_by = a.closer
        returning set_config('synchronous_commit', 'off', true)`,
    ),

    // Needs no expiry to be safe: as long as this row lock lasts, no statement that grants the lock gets past it.
    guard: statement<Held>(
      engine,
      (p) => sql`
        select a.i::int, l.expires_at > clock_timestamp() as stands
        from ${locks} as l
        join ${holds(p)} as a(name, owner, token, i)
          on (a.name, a.owner, a.token) = (l.name, l.owner, l.token)
        order by l.name
        for key share of l`,
    ),

    // The same for one hold: finds its row by the key, so that at SERIALIZABLE it conflicts with no other; and may be folded
    // into a statement of the caller's.
    guardOne: statement<Hold>(
      engine,
      (p) => sql`
        select expires_at > clock_timestamp() as stands
        from ${locks}
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        for key share`,
    ),

    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select name, owner, token::text, holder, (${waiting}) as waiters,
               ${leftOf(sql`expires_at`)} as remaining
        from ${locks} as l
        where starts_with(name, ${p.prefix}::text) and not ${free}
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      engine,
      (p) => sql`
        select name, owner, token::text, holder, (${waiting}) as waiters,
               ${leftOf(sql`expires_at`)} as remaining
        from ${locks} as l
        where name = ${p.name}::text and not ${free}`,
    ),

    forceRelease: statement<{ name: string }>(
      engine,
      (p) => sql`
        with held as (
          select name from ${locks}
          where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()
          for update skip locked
        ), forced as (
          update ${locks} as l
          set owner = null, session = null, handed_to = null,
              token = greatest(l.token + 1, ${clockToken}), expires_at = clock_timestamp()
          from held
          where l.name = held.name
          returning l.name
        )
        select exists (select from forced) as forced,
               exists (select from ${locks}
                       where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()) as held`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        with idle as (
          select name from ${locks}
          where expires_at <= clock_timestamp() - ${p.idleMs}::float8 * interval '1 ms' and token < ${clockToken}
            and (queue is null
                 or not exists (select from jsonb_array_elements(queue) as e where (e->>'until')::float8 > ${clockToken}))
          order by name
          for update skip locked
        ), gone as (
          delete from ${locks} as l using idle where l.name = idle.name returning l.name
        )
        select count(*)::int as purged from gone`,
    ),
  }
}

export function postgresStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming, own: OwnConnection): Store<Tx> {
  const statements = postgresStatements(naming)
  const table = tableName('postgres', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table), own)

  /** For attempts that will probably find free what they want. */
  function quickest(attempts: readonly Attempt[]): Statement | undefined {
    const [first] = attempts
    if (first === undefined) return undefined
    if (attempts.length === 1) return statements.takeOne(first)
    const { owner, ttlMs, holder, session } = first
    const alike = (one: Attempt) =>
      one.owner === owner && one.ttlMs === ttlMs && one.holder === holder && one.session === session
    if (!attempts.every(alike)) return undefined
    const names = array(attempts.map(({ name }) => name))
    return statements.take({ names, count: attempts.length, owner, ttlMs, holder, session })
  }

  /** The server's processes of transactions that have taken a lock, by their handles. A handle may serve one after the other. */
  const backends = new WeakMap<object, number>()

  async function isolationOf(tx: Tx): Promise<string> {
    // SHOW takes no snapshot.
    const query = { text: 'show transaction_isolation', values: [] }
    return runner.runIn(tx, query, ({ rows: [row] }) => String(Object.values(row ?? {})[0]))
  }

  /** A connection of our own that holds the advisory lock `id`, and thereby shows that this process lives. */
  async function openLocked(id: string, purpose: string): Promise<DedicatedConnection> {
    const connection = await own.attach(purpose)
    try {
      const { rows } = await connection.query({
        // In a session that is a pooler's own the lock would stay behind, and so would the settings. These come in the same
        // message, since the next one may ask whether we live (see `sessionEnded`). An idle session would be ended, too.
        text: `select backend,
                 case when is_direct then pg_try_advisory_lock($1::bigint) end as locked,
                 case when is_direct then set_config('rowlock.own_locks',
                   concat_ws(',', nullif(current_setting('rowlock.own_locks', true), ''), $1::text), false) end as told,
                 case when is_direct then (select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout') end as idle
               from (select pg_backend_pid() as backend, pg_backend_pid() = coalesce($2::int, pg_backend_pid()) as is_direct) as s`,
        values: [id, connection.backendId ?? null],
      })
      const backend = Number(rows[0]?.backend)
      if (connection.backendId !== undefined && connection.backendId !== backend) {
        throw new LockError(
          'UNSUPPORTED',
          `${purpose} needs a direct connection: a pooler (PgBouncer or the like) stands between, and its sessions are not ours. Give fromPg a direct pool as its sessions option, or do without`,
        )
      }
      if (!toBoolean(rows[0]?.locked))
        throw new DatabaseError('conflict', 'the session lock is taken', { cause: undefined })
      return connection
    } catch (error) {
      await connection.close()
      throw error instanceof LockError ? error : explain(error, false, table)
    }
  }

  /** The connection goes on, so the lock has to be given back by itself. */
  async function unlock(connection: DedicatedConnection, id: string): Promise<void> {
    await connection.query({
      text: `select pg_advisory_unlock($1::bigint),
                    set_config('rowlock.own_locks', array_to_string(array_remove(
                      string_to_array(current_setting('rowlock.own_locks', true), ','), $1::text), ','), false)`,
      values: [id],
    })
    await connection.close()
  }

  const names = new Map<string, string>()
  /**
   * The same text gets the same name, so that it need not be planned again. But callers may send any number of texts; and what
   * is prepared keeps the types of its values and of its rows, with which it fails after those of a table have changed.
   */
  function prepared(
    { returnsRows, ...query }: CallerQuery & { readonly returnsRows: boolean },
    { values }: CallerQuery,
  ): Statement {
    if (returnsRows || values.length > 0) return { ...query, callers: true }
    let name = names.get(query.text)
    if (name === undefined) {
      if (names.size === MOST_NAMES) return { ...query, callers: true }
      name = statementName(query.text)
      names.set(query.text, name)
    }
    return { ...query, name, callers: true }
  }

  /** Of calls that failed after that, and that are repeated. */
  const givenBack = new WeakSet<Hold>()

  async function releaseAny(holds: readonly Hold[], process: string): Promise<ReleaseResult[]> {
    const { rows } = await runner.keep(statements.release({ ...ofHolds(holds), process }))
    const results = inOrder(rows, holds.length).map((row, index): ReleaseResult => {
      if (row === undefined) return { ...NOT_RELEASED, outcome: 'lost' }
      if (!toBoolean(row.released)) return { ...NOT_RELEASED, outcome: toBoolean(row.ours) ? 'locked' : 'lost' }
      return toReleased(holds[index]!.name, row)
    })
    const locked = [...holds.keys()].filter((index) => results[index]!.outcome === 'locked')
    if (locked.length === 0) return results
    const guarded = await runner.keep(statements.releaseGuarded(ofHolds(locked.map((index) => holds[index]!))))
    for (const row of guarded.rows) {
      const unsettled = toBoolean(row.awaited)
      results[locked[toNumber(row.i) - 1]!] = { ...NOT_RELEASED, outcome: 'released', unsettled }
    }
    return results
  }

  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,

    async acquire(attempts) {
      const results = new Array<AttemptResult | undefined>(attempts.length).fill(undefined)
      const query = quickest(attempts)
      const { rows } = query === undefined ? NO_ROWS : await runner.run(query)
      for (const row of rows) {
        const result = toAttemptResult(row)
        for (const index of indicesOf(attempts, row.names)) results[index] = result
      }
      const missed = unanswered(results)
      if (missed.length > 0) {
        const { rows } = await runner.run(statements.acquire(asked(missed.map((index) => attempts[index]!))))
        const answers = inOrder(rows, missed.length)
        for (const [at, index] of missed.entries()) results[index] = toAttemptResult(answers[at])
      }
      return results as AttemptResult[]
    },

    async acquireIn(tx, { name, owner, ttlMs, holder }, waitMs) {
      const query = statements.within({ name, owner, ttlMs, holder, waitMs })
      return runner.runIn(tx, query, ({ rows: [row] }): AttemptInResult => {
        if (row?.outcome === 'granted') {
          backends.set(tx as object, Number(row.backend))
          return { granted: true, owner: row.owner as string, token: BigInt(row.token as string) }
        }
        return {
          granted: false,
          holder: (row?.holder as string | null | undefined) ?? null,
          queued: row?.outcome === 'queued',
          idleLimitMs: Number(row?.idle_limit_ms ?? 0),
        }
      })
    },

    async readsSnapshot(tx) {
      if (!['repeatable read', 'serializable'].includes(await isolationOf(tx))) return false
      // Whoever has taken a lock already has its snapshot; and by waiting elsewhere it could hide a deadlock from the engine.
      const backend = backends.get(tx as object)
      if (backend === undefined) return true
      const { rows } = await runner.keep(statements.hasWritten({ backend }))
      return !toBoolean(rows[0]?.written)
    },

    async lookAtTransactions(names) {
      const { rows } = await runner.keep(statements.lookAtTransactions({ names: array(names) }))
      return rows.map(({ i, taken, blocked }) => ({
        name: names[Number(i) - 1]!,
        taken: toBoolean(taken),
        blocked: toBoolean(blocked),
      }))
    },

    async closeGates(asked) {
      await runner.keep(statements.closeGates(ofGates(asked)))
    },

    async openGates(asked) {
      await runner.keep(statements.openGates(ofGates(asked)))
    },

    async enqueue(arrivals, maxWaiters) {
      const { rows } = await runner.keep(statements.enqueue({ arrivals: numbered(arrivals), maxWaiters }))
      return inOrder(rows, arrivals.length).map((row, index): ArrivalResult => {
        if (row?.outcome !== 'queued') return { outcome: row!.outcome as 'full' | 'locked' | 'missing' }
        return { outcome: 'queued', entry: row.entry as string, sight: toSight(arrivals[index]!.name, row) }
      })
    },

    async leave(departures) {
      const { rows } = await runner.keep(statements.leave({ departures: numbered(departures) }))
      return inOrder(rows, departures.length).map((row, index) => {
        return { left: row === undefined || !toBoolean(row.locked), grant: toGrant(departures[index]!.name, row) }
      })
    },

    async look(names) {
      const { rows } = await runner.keep(statements.look({ names: array(names) }))
      return rows.map((row) => toSight(names[toNumber(row.i) - 1]!, row))
    },

    async settle(names, process) {
      const { rows } = await runner.keep(statements.settle({ names: array(names), process }))
      return inOrder(rows, names.length).map((row, index): Settlement => {
        return { outcome: (row?.outcome ?? 'idle') as Settlement['outcome'], grant: toGrant(names[index]!, row) }
      })
    },

    async releaseIn(tx, hold) {
      return runner.runIn(tx, statements.releaseIn(hold), ({ rows: [row] }) =>
        row === undefined ? 'lost' : { awaited: toBoolean(row.awaited) },
      )
    },

    async renew(holds): Promise<Renewal[]> {
      const renewals: Renewal[] = []
      for (let from = 0; from < holds.length; from += BATCH) {
        const part = holds.slice(from, from + BATCH)
        const ttls = array(part.map(({ ttlMs }) => ttlMs))
        const rows = inOrder((await runner.keep(statements.renew({ ...ofHolds(part), ttls }))).rows, part.length)
        // These rows were changed since the statement began, and not locked by anybody else: that is over.
        const again = [...rows.keys()].filter((index) => toBoolean(rows[index]!.changed))
        if (again.length > 0) {
          const some = again.map((index) => part[index]!)
          const ttls = array(some.map(({ ttlMs }) => ttlMs))
          const { rows: answers } = await runner.keep(statements.renew({ ...ofHolds(some), ttls }))
          for (const [at, row] of inOrder(answers, some.length).entries()) rows[again[at]!] = row
        }
        for (const row of rows) {
          renewals.push({ outcome: row!.outcome as Renewal['outcome'], remainingMs: Number(row!.remaining ?? 0) })
        }
      }
      return renewals
    },

    async release(holds, process) {
      const [hold] = holds
      if (holds.length === 1 && hold !== undefined && !givenBack.has(hold)) {
        const [row] = (await runner.keep(statements.releaseOne({ ...hold, process }))).rows
        return row === undefined ? releaseAny(holds, process) : [toReleased(hold.name, row)]
      }
      const results = new Array<ReleaseResult | undefined>(holds.length).fill(undefined)
      for (const [index, hold] of holds.entries()) if (givenBack.has(hold)) results[index] = RELEASED
      const lonely = unanswered(results).filter((index) => !holds[index]!.awaited && !wasHandedOver(holds[index]!))
      if (lonely.length > 0) {
        const some = lonely.map((index) => holds[index]!)
        const { rows } = await runner.keep(statements.giveBack({ holds: byName(some), count: some.length }))
        for (const { names } of rows) for (const at of indicesOf(some, names)) results[lonely[at]!] = RELEASED
      }
      const others = unanswered(results)
      if (others.length === 0) return results as ReleaseResult[]
      try {
        const answers = await releaseAny(
          others.map((index) => holds[index]!),
          process,
        )
        for (const [at, index] of others.entries()) results[index] = answers[at]
        return results as ReleaseResult[]
      } catch (error) {
        for (const [index, hold] of holds.entries()) if (results[index] !== undefined) givenBack.add(hold)
        throw error
      }
    },

    guard(tx, holds) {
      const [hold] = holds
      if (holds.length === 1 && hold !== undefined) {
        return runner.runIn(tx, statements.guardOne(hold), ({ rows: [row] }): GuardResult[] => {
          if (row === undefined) return ['lost']
          return [toBoolean(row.stands) ? 'stands' : 'expired']
        })
      }
      return runner.runIn(tx, statements.guard(ofHolds(holds)), ({ rows }) => {
        return inOrder(rows, holds.length).map((row): GuardResult => {
          if (row === undefined) return 'lost'
          return toBoolean(row.stands) ? 'stands' : 'expired'
        })
      })
    },

    async guardedQuery(tx, hold, query) {
      const folded = prepared(foldGuard(statements.guardOne(hold), query), query)
      try {
        return (await adapter.queryIn(tx, folded)).rows
      } catch (error) {
        // What an adapter says itself is about the transaction.
        if (error instanceof LockError) throw error
        if (isFailedCast(error, GUARD_FAILED)) {
          throw new LockLostError(hold.name, 'the statement was undone, and its transaction can only roll back', {
            cause: error,
          })
        }
        // What is wrong with the caller's own statement is for the caller: through unchanged. 40001 may be the guard's.
        const code = sqlState(error)
        throw code === undefined || code === '25P02' || code === '40001' ? explain(error, true, table) : error
      }
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name) {
      const [row] = (await runner.run(statements.forceRelease({ name }))).rows
      if (toBoolean(row?.forced)) return 'released'
      return toBoolean(row?.held) ? 'locked' : 'free'
    },

    async purge(idleMs) {
      const [row] = (await runner.run(statements.purge({ idleMs }))).rows
      return toNumber(row?.purged)
    },

    async openSession(onLost): Promise<HolderSession> {
      const id = (randomBytes(8).readBigInt64BE() >> 1n).toString()
      const connection = await openLocked(id, "takeover: 'session'")
      connection.onLost(onLost)
      return {
        id,
        ping: () => connection.query({ text: 'select 1', values: [] }),
        drop: async () => connection.drop?.(),
        close: () => unlock(connection, id),
      }
    },

    async listen(process, onGrant, onLost): Promise<Listening> {
      const channel = `rowlock_${process}`
      // A grant's expiry is a time of the server's; here it is not before what follows from when this question was sent.
      let clock = { sentAt: 0, now: 0 }
      const compareClocks = async (connection: Connection) => {
        const sentAt = performance.now()
        const { rows } = await connection.query({
          text: 'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
          values: [],
        })
        clock = { sentAt, now: Number(rows[0]?.now) }
      }
      const hear = (payload: string) => {
        const { name, owner, token, takeover, expiresAt } = JSON.parse(payload) as Notification
        const sinceAsked = performance.now() - clock.sentAt
        const leftMs = expiresAt - clock.now - sinceAsked * (1 + CLOCK_DRIFT)
        // More than a hand-off ever lasts: the server's clock has been set since, and says nothing until it is asked again.
        const remainingMs = leftMs > CLAIM_MS ? 0 : leftMs
        onGrant({ name, owner, token: BigInt(token), process, takeover, remainingMs })
      }
      if (adapter.dedicate === undefined && adapter.listen !== undefined) {
        const ping = () => compareClocks(adapter)
        await ping()
        return { provesLife: false, ping, close: await adapter.listen(channel, hear) }
      }
      const connection = await openLocked(process, 'LISTEN')
      const ping = () => compareClocks(connection)
      try {
        if (connection.onNotification === undefined) {
          throw new LockError('UNSUPPORTED', 'this driver does not pass on notifications')
        }
        await ping()
        connection.onNotification(hear)
        await connection.query({ text: `listen "${channel}"`, values: [] })
        connection.onLost(onLost)
        return {
          provesLife: true,
          ping,
          drop: async () => connection.drop?.(),
          async close() {
            await connection.query({ text: `unlisten "${channel}"`, values: [] })
            await unlock(connection, process)
          },
        }
      } catch (error) {
        await connection.close()
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },

    async assess() {
      await checkShape((query) => runner.run(query))
      return assess(await readTopology('postgres', (query) => runner.run(query), table), adapter.single === true)
    },

    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (text: string, values: unknown[] = []) => connection.query({ text, values })
          await run('begin')
          try {
            await run(
              "select 1 from pg_advisory_xact_lock(hashtextextended(coalesce($1::text, current_schema()) || ' ' || $2::text, $3::bigint))",
              [naming.schema ?? null, table, MIGRATION_SEED],
            )
            if (naming.schema !== undefined) {
              const isMissing = async () =>
                (await run('select 1 as found from pg_namespace where nspname = $1::text', [naming.schema])).rows
                  .length === 0
              if (await isMissing()) {
                await run('select 1 from pg_advisory_xact_lock($1::bigint)', [SCHEMA_LOCK])
                if (await isMissing()) await run(`create schema ${quoted('postgres', naming.schema)}`)
              }
            }
            const history = tableName('postgres', 'migrations', naming)
            const { rows } = await run('select to_regclass($1::text) is not null as found', [history])
            if (!toBoolean(rows[0]?.found)) await run(historyStatement('postgres', naming))
            const done = new Set((await run(`select name from ${history}`)).rows.map((row) => row.name))
            const applied = await applyPending('postgres', naming, done, run)
            await run('commit')
            return applied
          } catch (error) {
            await run('rollback')
            throw error
          }
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

/** Before a lock depends on it: whether booleans, numbers and texts come back as such. */
async function checkShape(run: (query: Statement) => Promise<Result>): Promise<void> {
  const text = "select true as yes, false as no, 7 as i, 0.5::float8 as remaining, '7'::text as token"
  const [row = {}] = (await run({ text, values: [] })).rows
  const { yes, no, i, remaining, token } = checkRow(row, 'token')
  if (token !== '7') throw otherShape('text', token)
  if (!toBoolean(yes) || toBoolean(no)) throw otherShape('true and false', [yes, no])
  if (toNumber(i) !== 7 || toNumber(remaining) !== 0.5) throw otherShape('7 and 0.5', [i, remaining])
}

const GUARD_FAILED = 'rowlock: the lease is lost'

/** Whether the server quotes this text. Knex puts the statement before the message, where the text is a literal. */
function isFailedCast(error: unknown, text: string): boolean {
  if (sqlState(error) !== '22P02') return false
  const { message } = error as Error
  return message.lastIndexOf(text) > message.lastIndexOf(`'${text}'`) + 1
}

/**
 * The caller's statement as a CTE beside the guard, which comes first. If the guard finds no row, a cast fails and takes the whole
 * statement with it; a clock in it keeps the planner from working it out beforehand.
 */
function foldGuard(
  guard: { text: string; values: readonly unknown[] },
  query: CallerQuery,
): CallerQuery & { readonly returnsRows: boolean } {
  const text = query.text.trim().replace(/;$/, '')
  const bare = text.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|--.*$|\/\*[\s\S]*?\*\//gm, ' ').trim()
  if (/^with\b/i.test(bare)) {
    throw new LockError('INVALID_ARGUMENT', 'guarded() takes a statement without WITH: call guard(tx) before that one')
  }
  const shifted = guard.text.replace(/\$(\d+)/g, (_, index: string) => `$${Number(index) + query.values.length}`)
  const returnsRows = /^(\(|(select|values|table)\b)/i.test(bare) || /\breturning\b/i.test(bare)
  return {
    text: `with rowlock_query as (${text}
      )
      select ${returnsRows ? 'rowlock_query.* from rowlock_query where true' : '1 where false'} = coalesce(
        (select true from (${shifted}) as rowlock_row),
        ('${GUARD_FAILED}' || left(clock_timestamp()::text, 0))::boolean)`,
    values: [...query.values, ...guard.values],
    returnsRows,
  }
}

/** What a hand-off is notified with. */
interface Notification {
  readonly name: string
  readonly owner: string
  readonly token: string
  readonly takeover: boolean
  /** Milliseconds since 1970 by the server's clock. */
  readonly expiresAt: number
}

/** How much faster than ours the server's clock is taken to run, at most. */
const CLOCK_DRIFT = 0.01

/** Rows named in one statement. */
const BATCH = 1000
/** Texts of callers that are prepared; each takes room in every session of the server. */
const MOST_NAMES = 100

/** Where one waited for the lock, others probably do. */
function wasHandedOver({ owner, token }: Hold): boolean {
  return owner.endsWith(token.toString(16).padStart(16, '0'))
}

const NO_ROWS: Result = { rows: [] }
const RELEASED: ReleaseResult = { outcome: 'released', handedOver: false, grant: null, unsettled: false }
const NOT_RELEASED = { handedOver: false, grant: null, unsettled: false } as const

/** An array in the server's own notation: drivers differ in what they make of arrays, but they all pass on text. */
function array(values: readonly (string | number | bigint | null)[]): string {
  let text = ''
  for (const value of values) {
    if (text !== '') text += ','
    if (value === null) text += 'null'
    else
      text += typeof value === 'string' ? `"${/["\\]/.test(value) ? value.replace(/["\\]/g, '\\$&') : value}"` : value
  }
  return `{${text}}`
}

function keys(asked: readonly { readonly name: string; readonly owner: string }[]) {
  return { names: array(asked.map(({ name }) => name)), owners: array(asked.map(({ owner }) => owner)) }
}

function asked(attempts: readonly Attempt[]) {
  return {
    ...keys(attempts),
    ttls: array(attempts.map(({ ttlMs }) => ttlMs)),
    holders: array(attempts.map(({ holder }) => holder)),
    sessions: array(attempts.map(({ session }) => session)),
  }
}

function ofHolds(holds: readonly Hold[]) {
  return {
    ...keys(holds),
    tokens: array(holds.map(({ token }) => token)),
  }
}

function ofGates(asked: readonly Gate[]) {
  return { names: array(asked.map(({ name }) => name)), closers: array(asked.map(({ by }) => by)) }
}

function numbered(items: readonly (Arrival | Departure)[]): string {
  return JSON.stringify(items.map((item, index) => ({ i: index + 1, ...item })))
}

/** The indices of those whose names are listed, as JSON; null is all of them. */
function indicesOf(asked: readonly { readonly name: string }[], names: unknown): number[] {
  const indices = [...asked.keys()]
  if (typeof names !== 'string') return indices
  const listed = new Set(JSON.parse(names) as string[])
  return indices.filter((index) => listed.has(asked[index]!.name))
}

/** As a JSON object, in which the server finds a hold by its name. */
function byName(holds: readonly Hold[]): string {
  return JSON.stringify(Object.fromEntries(holds.map(({ name, owner, token }) => [name, `${owner} ${token}`])))
}

function unanswered(results: readonly unknown[]): number[] {
  return [...results.keys()].filter((index) => results[index] === undefined)
}

/** Rows come in any order, with the index of what they answer, from 1. */
function inOrder(rows: readonly Record<string, unknown>[], count: number): (Record<string, unknown> | undefined)[] {
  const ordered = new Array<Record<string, unknown> | undefined>(count).fill(undefined)
  for (const row of rows) ordered[toNumber(row.i) - 1] = row
  return ordered
}

function toState(row: Record<string, unknown>): LockState {
  return {
    name: row.name as string,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    holder: row.holder as string,
    expiresInMs: Math.max(0, toNumber(row.remaining)),
    waiters: toNumber(row.waiters),
  }
}

function toSight(name: string, row: Record<string, unknown>): Sight {
  const { owner, token, label, takeover, remaining } = row
  const entries = JSON.parse((row.entries as string | null) ?? '[]') as string[]
  const holder =
    owner === null || toBoolean(row.free)
      ? null
      : {
          name,
          owner: owner as string,
          token: BigInt(token as string),
          label: label as string,
          takeover: toBoolean(takeover),
          remainingMs: toNumber(remaining),
        }
  return {
    name,
    holder,
    bySession: toBoolean(row.by_session),
    ready: toBoolean(row.free) && entries.length > 0,
    leasesWait: toBoolean(row.leases_wait),
    entries,
  }
}

function toGrant(name: string, row: Record<string, unknown> | undefined): Grant | null {
  if (row?.owner == null) return null
  return {
    name,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    process: row.process as string,
    takeover: toBoolean(row.takeover),
    remainingMs: toNumber(row.remaining),
  }
}

function toReleased(name: string, row: Record<string, unknown>): ReleaseResult {
  const grant = toGrant(name, row)
  return { outcome: 'released', handedOver: grant !== null, grant, unsettled: false }
}

function toAttemptResult(row: Record<string, unknown> | undefined): AttemptResult {
  if (row?.token == null) {
    if (row === undefined) return { granted: false, holder: null, queued: false }
    const holder = row.holder as string | null
    return { granted: false, holder, queued: toBoolean(row.queued), ...(toBoolean(row.ours) && { ours: true }) }
  }
  return { granted: true, token: BigInt(row.token as string), takeover: toBoolean(row.takeover) }
}

/** Of a standby, of a server while it fails over, of a session or a transaction that was made so. */
const READ_ONLY = '25006'
/** Met outside of the caller's transactions: on a connection that came back into the pool with one that had failed. */
const IN_FAILED_TRANSACTION = '25P02'
const INSUFFICIENT_PRIVILEGE = '42501'
/** The class of too_many_connections, disk_full, out_of_memory and configuration_limit_exceeded. */
const INSUFFICIENT_RESOURCES = '53'
const CANNOT_CONNECT_NOW = '57P03'
const QUERY_CANCELED = '57014'
/** Table, schema, column or function missing. */
const NOT_MIGRATED = ['42P01', '3F000', '42703', '42883']
/** Failed before, serialization failure, deadlock, lock timeout; and ended by the server for its idleness or its length. */
const ENDED_TRANSACTION = ['25P02', '40001', '40P01', '55P03', '25P03', '25P04']

function sqlState(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code) ? code : undefined
}

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const code = sqlState(error)
  if (isPoolTimeout(error)) return noRoom(error)
  if (code === undefined) return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  if (NOT_MIGRATED.includes(code)) return notMigrated(table, error)
  if (inTransaction && (code === QUERY_CANCELED || ENDED_TRANSACTION.includes(code))) return transactionAborted(error)
  if (['40001', '40P01', '55P03'].includes(code)) return databaseError('conflict', error)
  if (code === IN_FAILED_TRANSACTION) return transactionLeftOpen(error)
  if (code === READ_ONLY) return readOnly(error)
  if (code === INSUFFICIENT_PRIVILEGE) return missingRight(table, error)
  if (code.startsWith(INSUFFICIENT_RESOURCES) || code === CANNOT_CONNECT_NOW) return noRoom(error)
  if (code === QUERY_CANCELED) return cutShort(error)
  if (code.startsWith('08') || code.startsWith('57P')) return databaseError('connection', error)
  return databaseError('other', error)
}
