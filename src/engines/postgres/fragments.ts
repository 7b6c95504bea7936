import { type RawBuilder, sql } from 'kysely'
import { type Naming, tableName } from '../migrations.ts'

/** What the statements of PostgreSQL have in common. */
export type Fragments = ReturnType<typeof fragmentsFor>

/** Microseconds since 1970 by the server's clock: what a token is at least. */
export const clockToken = sql`(extract(epoch from clock_timestamp()) * 1000000)::bigint`

/** Milliseconds from now. */
export const leftOf = (expiry: RawBuilder<unknown>) =>
  sql`extract(epoch from ${expiry} - clock_timestamp())::float8 * 1000`

/**
 * What is asked, as text that the planner cannot see into. It would take the length of arrays into account, find plans for that
 * length cheaper than one for all, and so plan a prepared statement anew each time, which takes longer than executing it.
 */
export const unseen = (text: RawBuilder<string>) => sql`(select ${text}::text)`

/**
 * The planner believes a table small that nobody has analyzed yet, and would rather read all of it, dead rows included, than
 * look up as many names as it expects. Behind a limit that it cannot see into it expects few.
 */
export const few = sql`limit (select 1000000)`

/**
 * Always true, and never worked out. For statements that look up many rows at once, of which the planner expects ten: it adds
 * up what a condition costs for each row that it would read, and this one, with its thousand numbers, makes reading a table of
 * more than a dozen rows dearer than looking names or places up.
 */
export const lookedUp = dear(sql`l.token`)
/** The same of marks. */
export const markLookedUp = dear(sql`m.token`)

function dear(token: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`case when ${token} < 0 then (select count(*) from generate_series(0, ${token})) > 0 else true end`
}

/** The names of those that were found; null if that is all of `count`, as is usual, since listing them is work for both sides. */
export const unlessAll = (count: RawBuilder<number>) =>
  sql`case when count(*) < ${count}::int then json_agg(name)::text end as names`

/** Its slot, found by the whole key. */
export const shared = (p: { [Key in 'name' | 'slot' | 'owner' | 'token']: RawBuilder<unknown> }) =>
  sql`name = ${p.name}::text and slot = ${p.slot}::int and owner = ${p.owner}::text and token = ${p.token}::bigint`

/** Holds that are asked for, as arrays in the server's notation. */
export interface HoldArrays {
  readonly names: string
  readonly owners: string
  readonly tokens: string
}

/** Shared ones. */
export interface SharedArrays extends HoldArrays {
  readonly slots: string
}

/** One row for each. */
export const holds = (p: {
  readonly names: RawBuilder<string>
  readonly owners: RawBuilder<string>
  readonly tokens: RawBuilder<string>
}) =>
  sql`unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[]) with ordinality`

export const sharedHolds = (p: {
  readonly names: RawBuilder<string>
  readonly slots: RawBuilder<string>
  readonly owners: RawBuilder<string>
  readonly tokens: RawBuilder<string>
}) =>
  sql`unnest(${unseen(p.names)}::text[], ${unseen(p.slots)}::int[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[]) with ordinality`

/**
 * Who is told of a grant counts on it, also where commits are asynchronous by default. Read at the commit, so its place in
 * the statement does not matter. Waiting for replicas, if set, is left as it is.
 */
export const durable = sql`set_config('synchronous_commit', case current_setting('synchronous_commit')
                                                       when 'off' then 'on' else current_setting('synchronous_commit') end, true)`

/** A release that a crash undoes costs the next holder one ttl, so its commit need not wait for the disk. */
export const notDurable = sql`set_config('synchronous_commit', 'off', true)`

/**
 * True when the session that holds the advisory lock `key` is gone. Keys are random and never reused, so a dead session stays
 * dead. The shared lock is ours only until the statement ends, and shared locks do not disturb each other. No session is in its
 * own way, so rowlock's own connection has a setting that lists the locks it holds itself.
 */
const sessionEnded = (key: RawBuilder<unknown>) => sql`case
      when ${key}::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
      else pg_try_advisory_xact_lock_shared(${key}) end`

/** Nobody holds `l` exclusively. Released is free even if the clock was set back since. */
export const free = sql`(l.owner is null or l.expires_at <= clock_timestamp()
       or case when l.session is null then false else ${sessionEnded(sql`l.session`)} end)`

/** The shared hold `s` has not ended. */
const standing = sql`s.owner is not null and s.expires_at > clock_timestamp()
                     and not case when s.session is null then false else ${sessionEnded(sql`s.session`)} end`

/** How many wait for `l`. */
export const waiting = sql`select coalesce(sum((e->>'n')::int), 0)::int from jsonb_array_elements(l.queue) as e`

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
 * What is asked comes as arrays, so that one statement serves many callers. The verbs of a single caller are functions
 * (migrations/postgres): most drivers prepare nothing, and to plan such a statement takes longer than to execute it.
 */
export function fragmentsFor(naming: Naming) {
  const table = tableName('postgres', 'locks', naming)
  const locks = sql.raw(table)
  const slots = sql.raw(tableName('postgres', 'slots', naming))
  const named = (name: string) => sql.raw(tableName('postgres', name, naming))
  const gates = sql.raw(tableName('postgres', 'gates', naming))
  const waits = sql.raw(tableName('postgres', 'waits', naming))
  const marks = sql.raw(tableName('postgres', 'marks', naming))
  const gateClosed = sql`exists (select from ${gates} as g where g.name = l.name and g.closed_until > clock_timestamp())`
  /** Leases wait for `l`, so that transactions have to. */
  const leasesWait = sql`(coalesce(l.queue @@ 'exists($[*] ? (!exists(@.transaction)))', false) or ${gateClosed})`

  /** Those who hold `l`, as JSON. */
  const holders = sql`(
                 select json_agg(json_build_object(
                   'owner', h.owner, 'token', h.token::text, 'label', h.holder, 'remaining', ${leftOf(sql`h.expires_at`)},
                   'takeover', h.takeover, 'session', h.session is not null, 'process', h.handed_to,
                   'weight', h.weight, 'slot', h.slot) order by h.token)
                 from (
                   select l.owner, l.token, l.holder, l.expires_at, l.takeover, l.session, l.handed_to, null::int as weight, null::int as slot
                   where not ${free}
                   union all
                   select s.owner, s.token, s.holder, s.expires_at, s.takeover, s.session, s.handed_to, s.weight, s.slot
                   from ${slots} as s
                   where l.used > 0 and s.name = l.name and ${standing}
                 ) as h)::text`

  /** Somebody waits for `l`, and those who hold it leave room for the first. */
  const promotable = sql`case when l.queue is null or not ${free} then false
                 when l.used = 0 then true
                 else ${named('leaves_room_1')}(l.name, l.queue, l.permits) end`

  return {
    /** Quoted. */
    table,
    locks,
    slots,
    gates,
    waits,
    marks,
    leasesWait,

    /** A function of migrations/postgres. */
    named,

    holders,
    promotable,

    /**
     * There is no row of that name, and nobody else makes one now: of two inserts of one new name, one would wait for the
     * other's transaction. Keeps an advisory lock until the end of the statement's transaction.
     */
    mayCreate: (
      name: RawBuilder<unknown>,
    ) => sql`case when (select true from ${locks} as l where l.name = ${name}) then false
                     else pg_try_advisory_xact_lock(${advisoryKey(table, name)}) end`,

    /** The row of the lock that `asked` names, looked up by its name (see `few`). */
    rowOf: (asked: RawBuilder<unknown>) =>
      sql`lateral (select * from ${locks} as l where l.name = ${asked}.name limit 1) as l`,

    /** What a waiter sees of `l`. */
    view: sql`
               ${leasesWait} as leases_wait,
               l.token::text as row_token, ${holders} as holders, ${promotable} as promotable,
               jsonb_path_query_array(l.queue, '$[*].id')::text as tickets`,
  }
}
