import { sql } from 'kysely'
import { type Naming, tableName } from '../migrations.ts'

/** What the statements of SQLite have in common. */
export type Fragments = ReturnType<typeof fragmentsFor>

export const engine = 'sqlite'

/** Milliseconds since 1970. SQLite reads it when it needs it first in a statement, and a write has the file's lock by then. */
export const now = sql`cast(unixepoch('subsec') * 1000 as integer)`
export const clockToken = sql`${now} * 1000`

/** Nobody holds all of `l`. Released is free even if the clock was set back since. */
export const free = sql`(l.owner is null or l.expires_at <= ${now})`
/** Nobody holds a part of `l`. */
export const unshared = sql`(l.shares is null or not exists (select 1 from json_each(l.shares) where value ->> 'until' > ${now}))`

/** All of a row, as text in which any two states of it differ; null if there is none. And when it was like that. */
export const whole = sql`case when name is not null then json_object(
                 'name', name, 'owner', owner, 'token', cast(token as text), 'expiresAt', expires_at, 'holder', holder,
                 'handedTo', handed_to, 'takeover', takeover, 'permits', permits, 'shares', json(shares), 'queue', json(queue)) end`
export const seen = sql`${whole} as stored, ${now} as now`

/**
 * SQLite. There is one writer at a time, so a statement that writes is alone from before it looks until it has committed,
 * and a transaction that has written keeps everybody else from taking any lock.
 *
 * One statement, and so one commit, serves one caller or a thousand: what is asked comes as a JSON array. Queues and shared
 * holds are JSON arrays, too; json_each tells their elements in order.
 */
export function fragmentsFor(naming: Naming) {
  const table = tableName('sqlite', 'locks', naming)
  const locks = sql.raw(table)
  const waits = sql.raw(tableName('sqlite', 'waits', naming))
  const marks = sql.raw(tableName('sqlite', 'marks', naming))
  const waiters = sql`(select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue))`

  return { table, locks, waits, marks, waiters }
}
