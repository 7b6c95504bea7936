import { LockError } from '../../base/errors.ts'
import type { Topology } from '../topology.ts'
import { errnoOf, LOCK_WAIT_TIMEOUT, NO_WAIT_REFUSED, WAIT_LIMITED, WAIT_LIMITED_MARIADB } from './errors.ts'

/** Longer than any wait: where the statement's own limit is to end it, this one must not come before. */
export const LONGEST_ROW_WAIT_SECONDS = 3600
/** For a try on a server whose lock timeouts roll back whole transactions: long enough for a free lock to be taken. */
export const SHORTEST_LIMIT_MS = 100
/** Of the time that a session lets statements wait for a row: a wait that is over by then is begun again. */
export const PART_OF_ROW_WAIT = 0.7
/** For what others have locked for a moment, by a statement or by a gap, and what a transaction has for longer. */
export const A_MOMENT = 'innodb_lock_wait_timeout=1'
export const NO_WAIT = 'innodb_lock_wait_timeout=0'

export type Settings = Topology['settings']

export function rollsBackOnTimeout(settings: Settings): boolean {
  return settings.innodb_rollback_on_timeout === 'on'
}

/** For one statement of MariaDB that may wait for so long. */
export function limitsOf(settings: Settings, waitMs: number): string {
  const limitMs = waitMs > 0 || !rollsBackOnTimeout(settings) ? waitMs : SHORTEST_LIMIT_MS
  return limitMs > 0
    ? `max_statement_time=${limitMs / 1000}, innodb_lock_wait_timeout=${LONGEST_ROW_WAIT_SECONDS}`
    : NO_WAIT
}

/** Whether a statement was ended since somebody has the row. 1205 may have ended more than the statement. */
export function isLocked(error: unknown): boolean {
  const errno = error instanceof LockError ? errnoOf(error.cause) : undefined
  return [WAIT_LIMITED, WAIT_LIMITED_MARIADB, NO_WAIT_REFUSED, LOCK_WAIT_TIMEOUT].includes(errno as number)
}

/** Undefined if somebody has the row, and the transaction is as it was. */
export async function unlessLocked<T>(settings: Settings, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    const isAllLost = rollsBackOnTimeout(settings) && errnoOf((error as Error).cause) === LOCK_WAIT_TIMEOUT
    if (!isLocked(error) || isAllLost) throw error
    return undefined
  }
}
