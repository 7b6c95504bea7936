import { setTimeout as sleep } from 'node:timers/promises'
import { isTransactionAborted, type Locks, LockTimeoutError } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'

export interface SubsetsPlan {
  readonly turns: number
  /** Whether some of them take their locks in a transaction. */
  readonly transactions: boolean
}

/** What one process has done. */
export interface SubsetsReport {
  /** Writes that were committed, by the names of the locks that they were made under. */
  readonly written: Record<string, number>
  /** Writes that found one with a token as high as theirs. */
  readonly outOfOrder: string[]
  readonly aborted: number
  readonly refused: number
}

/** Longer than any caller has to wait for its turn. */
const WAIT = '60s'
/** Callers who leave do so while they wait, or while they are granted what they wait for. */
const LEAVES_WITHIN_MS = 12

/** A row for each lock, in which every write leaves its token. */
export async function createFences({ sql }: Connected, names: readonly string[]): Promise<void> {
  await sql('create table fences (name varchar(100) primary key, token bigint not null, writes bigint not null)')
  for (const name of names) await sql(`insert into fences (name, token, writes) values ('${name}', 0, 0)`)
}

/** Takes some of these locks together, by leases or in a transaction, and writes under all of them. */
export async function takeSubsets(
  { sql, transaction }: Connected,
  locks: Locks<unknown>,
  names: readonly string[],
  { turns, transactions }: SubsetsPlan,
): Promise<SubsetsReport> {
  const written: Record<string, number> = {}
  const outOfOrder: string[] = []
  let aborted = 0
  let refused = 0

  const write = async (tx: unknown, holds: readonly { readonly name: string; readonly token: bigint }[]) => {
    for (const { name, token } of holds) {
      const [row] = await sql(`select token from fences where name = '${name}'`, tx)
      if (BigInt(row?.token as string) >= token) outOfOrder.push(`${name}: ${token} after ${row?.token}`)
      await sql(`update fences set token = ${token}, writes = writes + 1 where name = '${name}'`, tx)
    }
  }
  const acknowledge = (taken: readonly string[]) => {
    for (const name of taken) written[name] = (written[name] ?? 0) + 1
  }

  const inTransaction = async (wanted: readonly string[]) => {
    await transaction(async (tx) => write(tx, await locks.within(tx).acquireAll(wanted, { wait: WAIT })))
    acknowledge(wanted)
  }
  const byLeases = async (wanted: readonly string[], way: number) => {
    const caller = new AbortController()
    const leaving = way < 0.5 ? setTimeout(() => caller.abort('left'), Math.random() * LEAVES_WITHIN_MS) : undefined
    const leases =
      way < 0.2
        ? await locks.tryAcquireAll(wanted)
        : await locks.acquireAll(wanted, { wait: WAIT, signal: caller.signal })
    clearTimeout(leaving)
    if (leases === null) {
      refused++
      return
    }
    await transaction(async (tx) => {
      await leases.guard(tx)
      await write(tx, leases.leases)
    })
    acknowledge(wanted)
    if (!(await leases.release())) throw new Error('a lease was lost, though nothing kept it from being renewed')
  }

  for (let turn = 0; turn < turns; turn++) {
    const subset = names.filter(() => Math.random() < 0.5)
    const wanted = (subset.length === 0 ? [...names] : subset).sort(() => Math.random() - 0.5)
    const way = Math.random()
    try {
      await (way < 0.7 || !transactions ? byLeases(wanted, way) : inTransaction(wanted))
    } catch (error) {
      if (error === 'left') refused++
      else if (isTransactionAborted(error)) aborted++
      else if (error instanceof LockTimeoutError)
        throw new Error('nobody should have to wait for so long', { cause: error })
      else throw error
    }
    await sleep(Math.random() * 2)
  }
  return { written, outOfOrder, aborted, refused }
}
