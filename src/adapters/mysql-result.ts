import type { Result } from './adapter.ts'

/** Set in the status that the server sends along with each answer while a transaction is open. */
const SERVER_STATUS_IN_TRANS = 1

/**
 * What mysql2 makes of rows by default, asked for with each statement of rowlock's: a pool may be set up to answer arrays, or
 * rows nested by table, or values of other types. `true` would not do for typeCast, since mysql2 prefers the pool's function.
 */
export const DEFAULT_SHAPE = {
  rowsAsArray: false,
  nestTables: false,
  typeCast: (_field: unknown, next: () => unknown) => next(),
}

/** Whether rows come back, for ORMs that do not see that for themselves; MariaDB takes limits of a statement in front of it. */
export function answersRows(text: string): boolean {
  return /^\s*(set statement [\w=., ]+ for\s+)?(select|show)\b/i.test(text)
}

interface ResultHeader {
  readonly insertId: Result['insertId']
  readonly affectedRows: number
  /** mysql2 passes it on, the driver `mariadb` does not. */
  readonly serverStatus?: number
}

/** Of the pair that mysql2 answers, which some ORMs pass on, and the driver `mariadb` through some ORMs. */
export function toResult([answer]: readonly [unknown, unknown]): Result {
  if (Array.isArray(answer)) return { rows: answer as Record<string, unknown>[] }
  const { insertId, affectedRows, serverStatus } = answer as ResultHeader
  const inTransaction = serverStatus === undefined ? undefined : (serverStatus & SERVER_STATUS_IN_TRANS) !== 0
  return { rows: [], insertId, affectedRows, inTransaction }
}
