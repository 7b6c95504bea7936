import { setTimeout as sleep } from 'node:timers/promises'
import { isTransactionAborted, type Locks } from '../../src/index.ts'
import type { Connected, Isolation } from '../adapters.ts'

/** Transactions that want locks all at once, and count what is theirs under them: read, add one, write. */
export interface Plan {
  readonly transactions: number
  /** The names that a transaction takes, in this order; the transactions go through this list in turn. */
  readonly names: readonly (readonly string[])[]
  readonly isolation?: Isolation
  /** Whether a transaction that the database gave up is tried again, as applications do. */
  readonly retried?: boolean
}

export interface Sum {
  /** How many transactions were aborted, those that succeeded when they were retried included. */
  readonly aborted: number
  /** What else went wrong. */
  readonly failed: readonly string[]
}

const LONGEST_REST_MS = 300

/** Of one process. Resolves when all transactions have ended. */
export async function addUp(
  { connected, locks }: { readonly connected: Connected; readonly locks: Locks<unknown> },
  { transactions, names, isolation, retried = false }: Plan,
): Promise<Sum> {
  let aborted = 0
  const failed: string[] = []
  const once = (wanted: readonly string[]) =>
    connected.transaction(async (tx) => {
      for (const name of wanted) await locks.within(tx).acquire(name)
      for (const name of wanted) {
        const [row] = await connected.sql(`select value from counters where name = '${name}'`, tx)
        await connected.sql(`update counters set value = ${Number(row?.value) + 1} where name = '${name}'`, tx)
      }
    }, isolation)
  const one = async (wanted: readonly string[]): Promise<void> => {
    try {
      await once(wanted)
    } catch (error) {
      if (!isTransactionAborted(error)) {
        failed.push(String(error))
        return
      }
      aborted++
      // Who comes back at once meets the same others again.
      if (!retried) return
      await sleep(LONGEST_REST_MS * Math.random())
      await one(wanted)
    }
  }
  await Promise.all(Array.from({ length: transactions }, (_, index) => one(names[index % names.length]!)))
  return { aborted, failed }
}

export async function createCounters(connected: Connected): Promise<void> {
  await connected.sql('create table counters (name varchar(100) primary key, value integer not null)')
}

export async function startCounter(connected: Connected, name: string): Promise<void> {
  await connected.sql(`insert into counters (name, value) values ('${name}', 0)`)
}

export async function counted(connected: Connected, name: string): Promise<number> {
  return Number((await connected.sql(`select value from counters where name = '${name}'`))[0]?.value)
}
