import { type RawBuilder, sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { type Naming, tableName } from '../migrations.ts'
import { compile } from '../statement.ts'

/** What the statements of MySQL and MariaDB have in common. */
export type Fragments = ReturnType<typeof fragmentsFor>

export const engine = 'mysql'

/** Locks named in one statement. More would make packets and lock lists long without saving time. */
export const BATCH = 1000

/** A limit of the statement's own: without one, the session's `sql_select_limit` would count. */
export const ALL = 2_000_000_000

/** Microseconds since 1970 by the server's clock, in UTC whatever the session's time zone, fixed when a statement starts. */
export const now = sql`timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))`

export const ASKED = sql.raw('/* asked */')
export const NAMES = sql.raw('/* names */')

/**
 * MySQL and MariaDB. Text travels as binary: no collation, no character set and no sql_mode has a say in it.
 *
 * UPDATE knows no NOWAIT, so each statement that changes rows finds them in a derived table FOR UPDATE SKIP LOCKED and
 * waits for nobody; `now`, read when the statement starts, is therefore never stale. The LIMIT keeps the optimizer from
 * merging that table into the update, which would silently drop the SKIP LOCKED; STRAIGHT_JOIN and FORCE INDEX keep it from
 * scanning a small table, which would lock all of its rows and wait for each. In what order a joined UPDATE assigns is not
 * defined, so a new value comes from the derived table, or from the same column.
 *
 * One statement serves one lock or many: what is asked comes as the table `asked`, with a row for each lock. What was done
 * with one comes back as last_insert_id(). affectedRows counts rows that were matched or rows that were changed, as the
 * client wishes, so it proves something where both are the same, or when it counts every row.
 *
 * The queue is an array of { id, n, weight, ttl, since, until, holder, session, process, transaction, change }: `change` is the
 * id of what changed that ticket last, `weight` is null of who waits for all of it. Free text is hex, which no character set
 * can spoil.
 */
export function fragmentsFor(naming: Naming) {
  const table = tableName('mysql', 'locks', naming)
  const locks = sql.raw(table)
  const gates = sql.raw(tableName('mysql', 'gates', naming))
  const slots = sql.raw(tableName('mysql', 'slots', naming))
  const waits = sql.raw(tableName('mysql', 'waits', naming))
  const marks = sql.raw(tableName('mysql', 'marks', naming))

  /** The rows of `asked`, in their order, each with its lock's row. */
  const askedLocks = sql`${ASKED} as asked straight_join ${locks} as l force index (primary) on l.name = asked.name`

  /** The same of slots. */
  const askedSlots = sql`${ASKED} as asked straight_join ${slots} as s force index (primary)
            on s.name = asked.name and s.slot = asked.slot`

  /** Tickets are dead when their time is over. */
  const firstIsAlive = sql`cast(json_value(l.queue, '$[0].until') as signed) > ${now}`
  /** Waits for all of it. */
  const firstIsExclusive = sql`json_value(l.queue, '$[0].weight') is null`
  /** Nobody shares it, and nobody did who would have to be taken off first; and it is a lock. */
  const unshared = sql`l.used = 0 and l.permits is null`
  const nobodyIsAlive = sql`coalesce(
    (select max(ticket.until) from json_table(l.queue, '$[*]' columns (until bigint path '$.until')) as ticket), 0) <= ${now}`
  const waiters = sql`coalesce(
    (select sum(ticket.n) from json_table(l.queue, '$[*]' columns (n int path '$.n')) as ticket), 0)`

  // An aggregate, since MySQL answers wrongly for EXISTS over the elements of a row's column.
  const leasesWait = sql`coalesce(
    (select max(1 - ticket.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as ticket), 0) = 1
    or exists (select 1 from ${gates} as g where g.name = l.name and g.closed_until > ${now})`

  const view = sql`
    l.name, ${leasesWait} as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - ${now}) / 1000 as remaining,
    case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
    l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as tickets, l.used,
    coalesce(l.permits, 0) as permits, l.checkpointed`

  const isHeld = sql`l.owner is not null and l.expires_at > ${now} and (l.session is null or is_free_lock(l.session) = 0)`

  return {
    ...{ table, locks, gates, slots, waits, marks, askedLocks, askedSlots, view, waiters },
    ...{ firstIsAlive, firstIsExclusive, nobodyIsAlive, unshared, isHeld },
  }
}

/** Of MariaDB: limits for one statement. */
export function limited({ text, values }: Statement, limits: string): Statement {
  return { text: `set statement ${limits} for ${text}`, values }
}

/**
 * `sql_safe_updates` refuses to change rows that a join with another table has found, rather than a constant. What lifts it for
 * one statement is a comment on the other of the two servers.
 */
export const UNGUARDED = '/*M! set statement sql_safe_updates = 0 for */ $1 /*+ set_var(sql_safe_updates = off) */'

/** A statement with a table of what is asked of it. It is compiled once; the rows are put in later, whatever their number. */
export function batched<Row extends object>(query: RawBuilder<unknown>): (rows: readonly Row[]) => Statement {
  const [before, after] = compile('mysql', query).text.split('/* asked */')
  const beforeMany = before!.replace(/^\s*(update|delete)\b/, UNGUARDED)
  return (rows) => {
    const columns = Object.keys(rows[0]!)
    const first = columns.map((column) => `? as ${column}`).join(', ')
    const other = ` union all select ${columns.map(() => '?').join(', ')}`
    return {
      text: `${rows.length > 1 ? beforeMany : before}(select ${first}${other.repeat(rows.length - 1)} limit ${rows.length})${after}`,
      values: rows.flatMap((row) => columns.map((column) => row[column as keyof Row])),
    }
  }
}

/** A statement with a list of names, which may stand there several times; compiled in the same way. */
export function named(query: RawBuilder<unknown>): (names: readonly Buffer[]) => Statement {
  const parts = compile('mysql', query).text.split('/* names */')
  return (names) => ({
    text: parts.join(`(?${', ?'.repeat(names.length - 1)})`),
    values: Array.from({ length: parts.length - 1 }, () => names).flat(),
  })
}
