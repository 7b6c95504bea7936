import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Transaction } from 'kysely'
import { fromKysely } from '../../adapters/kysely.ts'
import { createLocks, LockError, LockLostError, type Locks } from '../../index.ts'
import {
  type LedgerDatabase,
  type LedgerTables,
  openLedger,
  randomTransfer,
  readAccounts,
  TABLE_PREFIX,
  type Transfer,
  transferId,
  writeTransfer,
} from './ledger.ts'

/** One process that transfers money, in a loop, until it is told to finish. Run by load.ts. */

export type Protection = 'lease and guard' | 'lease only' | 'no lock'

export interface Task {
  readonly databaseUrl: string
  readonly protection: Protection
  readonly worker: number
  readonly ttlMs: number
}

/** From the parent. */
export type Order =
  | { readonly type: 'start'; readonly task: Task }
  /** Halt in the next transfer, after the reads and before the transaction, until `proceed`. */
  | { readonly type: 'halt' }
  | { readonly type: 'proceed' }
  /** The process that is stopped at present; whoever outlives the parent wakes it, so that it can end, too. */
  | { readonly type: 'stopped'; readonly pid: number | null }
  | { readonly type: 'finish' }

/** To the parent. */
export type Report =
  | { readonly type: 'ready' }
  | { readonly type: 'halted' }
  | { readonly type: 'acquired'; readonly waitedMs: number }
  | { readonly type: 'takeover' }
  | { readonly type: 'acknowledged'; readonly transfer: string }
  /** A stale transfer was not written, because the lease was lost. */
  | { readonly type: 'rejected' }

const THINK_MS = 5
const parent = new EventEmitter()
let halting = false
let finishing = false
let stoppedPid: number | null = null

process.on('message', (order: Order) => {
  if (order.type === 'start') void work(order.task)
  else if (order.type === 'halt') halting = true
  else if (order.type === 'proceed') parent.emit('proceed')
  else if (order.type === 'stopped') stoppedPid = order.pid
  else finishing = true
})
process.on('disconnect', () => {
  // The parent is dead. A stopped process cannot notice that by itself.
  if (stoppedPid !== null) process.kill(stoppedPid, 'SIGCONT')
  process.exit(1)
})
// Ctrl-C reaches all processes of the terminal. The parent decides.
process.on('SIGINT', () => undefined)

async function work({ databaseUrl, protection, worker, ttlMs }: Task): Promise<void> {
  const db = await openLedger(databaseUrl)
  const locks = createLocks(fromKysely(db), { tablePrefix: TABLE_PREFIX, ttl: ttlMs, wait: '30s' })
  locks.on(({ type }) => {
    if (type === 'takeover') void tell({ type })
  })
  await tell({ type: 'ready' })
  for (let seq = 1; !finishing; seq++) await perform(randomTransfer(worker, seq), db, locks, protection)
  await locks.close()
  await db.destroy()
  process.exit()
}

async function perform(
  transfer: Transfer,
  db: LedgerDatabase,
  locks: Locks<Transaction<LedgerTables>>,
  protection: Protection,
): Promise<void> {
  await using lease = protection === 'no lock' ? null : await acquire(locks, transfer.branch)
  const accounts = await untilNoConflict(() => readAccounts(db, transfer))
  await sleep(THINK_MS * (0.5 + Math.random()))
  // As careful code does that has no guard. What happens between here and the commit, nobody can check here.
  if (lease?.isHeld() === false) return tell({ type: 'rejected' })
  await haltIfTold()
  try {
    await untilNoConflict(() =>
      db.transaction().execute(async (tx) => {
        if (protection === 'lease and guard') await lease!.guard(tx)
        await writeTransfer(tx, transfer, accounts, lease?.token ?? null)
      }),
    )
  } catch (error) {
    if (error instanceof LockLostError) return tell({ type: 'rejected' })
    throw error
  }
  await tell({ type: 'acknowledged', transfer: transferId(transfer) })
}

async function acquire<Tx>(locks: Locks<Tx>, name: string) {
  const startedAt = performance.now()
  const lease = await locks.acquire(name)
  await tell({ type: 'acquired', waitedMs: performance.now() - startedAt })
  return lease
}

/** Repeats all of it while the database undoes it on account of others. */
async function untilNoConflict<T>(body: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await body()
    } catch (error) {
      if (!isConflict(error)) throw error
      await sleep(1 + 10 * Math.random())
    }
  }
}

function isConflict(error: unknown): boolean {
  if (error instanceof LockError) return error.code === 'TRANSACTION_ABORTED'
  const code = String((error as { code?: unknown }).code)
  const errcode = Number((error as { errcode?: unknown }).errcode) & 0xff
  return (
    /^SQLITE_(BUSY|LOCKED)/.test(code) ||
    (code === 'ERR_SQLITE_ERROR' && [5, 6].includes(errcode)) ||
    ['40001', '40P01', 'ER_LOCK_DEADLOCK', 'ER_CHECKREAD'].includes(code)
  )
}

async function haltIfTold(): Promise<void> {
  if (!halting) return
  halting = false
  const proceed = once(parent, 'proceed')
  await tell({ type: 'halted' })
  await proceed
}

/** Resolves when the report is on its way: then it arrives, even if this process is killed the next moment. */
function tell(report: Report): Promise<void> {
  return new Promise((resolve, reject) => {
    process.send!(report, (error: Error | null) => (error ? reject(error) : resolve()))
  })
}
