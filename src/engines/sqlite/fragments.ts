import { sql } from 'kysely'
import { type Naming, tableName } from '../migrations.ts'

/** What the statements of SQLite have in common. */
export type Fragments = ReturnType<typeof fragmentsFor>

export const engine = 'sqlite'

/** Milliseconds since 1970. SQLite reads it when it needs it first in a statement, and a write has the file's lock by then. */
export const now = sql`cast(unixepoch('subsec') * 1000 as integer)`
export const clockToken = sql`${now} * 1000`

/** Nobody holds `l`. Released is free even if the clock was set back since. */
export const free = sql`(l.owner is null or l.expires_at <= ${now})`

/**
 * SQLite. There is one writer at a time, so a statement that writes is alone from before it looks until it has committed,
 * and a transaction that has written keeps everybody else from taking any lock.
 *
 * One statement, and so one commit, serves one caller or a thousand: what is asked comes as a JSON array. Queues are JSON
 * arrays, too; json_each tells their elements in order.
 */
export function fragmentsFor(naming: Naming) {
  const table = tableName('sqlite', 'locks', naming)
  const locks = sql.raw(table)
  const waiters = sql`(select coalesce(sum(value ->> 'n'), 0) from json_each(l.queue))`

  /** What a waiter sees. */
  const view = sql`
               name, owner, cast(token as text) as token, holder, takeover, expires_at - ${now} as remaining,
               (owner is null or expires_at <= ${now}) as free,
               (select json_group_array(value ->> 'id') from json_each(queue)) as tickets`

  return { table, locks, waiters, view }
}
