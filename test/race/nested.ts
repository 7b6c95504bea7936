import { setTimeout as sleep } from 'node:timers/promises'
import { DeadlockError, isTransactionAborted, type Locks, LockTimeoutError } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'

export interface NestedPlan {
  /** How many locks the callers of this process are to have got in all. */
  readonly acquisitions: number
  readonly callers: number
  /** Whether all take what they want in one order, so that there is no circle. */
  readonly inOrder: boolean
  /** Whether some of them want their last lock in a transaction. */
  readonly transactions: boolean
  /** Up to so long everything is held, once it is all there. */
  readonly holdMs: number
}

export interface NestedReport {
  acquired: number
  /** The circles of those who were refused. */
  readonly circles: (readonly string[])[]
  readonly timedOut: string[]
}

const MOST_AT_ONCE = 4
/** Longer than any caller has to wait for its turn, unless nobody comes on. */
const WAIT = '60s'
const PERMITS = 4

/** Callers that take some of these locks one after the other, each within the run for the one before. */
export async function takeNested(
  { transaction }: Connected,
  locks: Locks<unknown>,
  names: readonly string[],
  { acquisitions, callers, inOrder, transactions, holdMs }: NestedPlan,
): Promise<NestedReport> {
  const report: NestedReport = { acquired: 0, circles: [], timedOut: [] }

  /** The first of them is a semaphore; the others are locks, which some share. */
  const within = async (name: string, isLast: boolean, body: () => Promise<void>): Promise<void> => {
    const go = async () => {
      report.acquired++
      await body()
    }
    const way = Math.random()
    if (name === names[0]) {
      const weight = 1 + Math.floor(Math.random() * 3)
      return locks.semaphore(name, { permits: PERMITS }).run({ weight, wait: WAIT }, go)
    }
    if (isLast && transactions && way < 0.2) {
      return transaction(async (tx) => {
        await locks.within(tx).acquire(name, { wait: WAIT })
        await go()
      })
    }
    return locks.run(name, { mode: way < 0.5 ? 'shared' : 'exclusive', wait: WAIT }, go)
  }

  const take = async ([name, ...rest]: readonly string[]): Promise<void> => {
    if (name === undefined) await sleep(Math.random() * holdMs)
    else await within(name, rest.length === 0, () => take(rest))
  }

  const call = async () => {
    while (report.acquired < acquisitions) {
      const drawn = [...names].sort(() => Math.random() - 0.5).slice(0, 1 + Math.floor(Math.random() * MOST_AT_ONCE))
      try {
        await take(inOrder ? drawn.sort() : drawn)
      } catch (error) {
        if (error instanceof DeadlockError) report.circles.push(error.circle)
        else if (error instanceof LockTimeoutError) report.timedOut.push(error.message)
        else if (!isTransactionAborted(error)) throw error
      }
    }
  }

  await Promise.all(Array.from({ length: callers }, call))
  return report
}
