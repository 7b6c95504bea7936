import { type Duration, LockError, type Locks } from '../index.ts'

/** What node-cron asks whether a run is this process's. */
export interface RunCoordinator {
  shouldRun(key: string, ttlMs: number): Promise<boolean>
}

export interface RunCoordinatorOptions {
  /**
   * For how long a fire counts as taken: longer than the clocks of the processes are apart. Default one day. `purge` takes off
   * what is past it.
   */
  readonly keepFor?: Duration | undefined
  /** How long to wait for a process that is just taking it. Default 5 s. */
  readonly wait?: Duration | undefined
}

/** Begins the name of what is taken: those of other things are not in the way. */
const PREFIX = 'node-cron:'
const DEFAULT_KEEP_FOR = '1d'
const DEFAULT_WAIT = '5s'
/** Taking it is two statements: of a process that dies between them, others need not wait for long. */
const TTL = '2s'

/**
 * A RunCoordinator of node-cron, from 4.4 on: of all processes that share the database, each fire of a task runs in one. A fire
 * is known by the task's name and its time as the expression says it, so processes whose clocks differ mean the same one. At most once: what a
 * process has taken that is then killed does not run again. A task needs `{ name, distributed: true }`. If the database cannot
 * be asked, node-cron skips the fire, and says so.
 */
export function createRunCoordinator(
  locks: Pick<Locks<never>, 'once'>,
  options: RunCoordinatorOptions = {},
): RunCoordinator {
  if (typeof locks?.once !== 'function') {
    throw new LockError(
      'INVALID_ARGUMENT',
      'createRunCoordinator takes what createLocks gave: createRunCoordinator(locks)',
    )
  }
  const { keepFor = DEFAULT_KEEP_FOR, wait = DEFAULT_WAIT } = options
  return {
    async shouldRun(key) {
      const { ran } = await locks.once(`${PREFIX}${key}`, { keepFor, wait, ttl: TTL }, () => undefined)
      return ran
    },
  }
}
