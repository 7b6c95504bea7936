import { mkdtemp, rm } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { fromKysely } from '../../adapters/kysely.ts'
import { createLocks, LockError } from '../../index.ts'
import { audit, createLedger, dropLedger, type LedgerDatabase, openLedger, readBooks, TABLE_PREFIX } from './ledger.ts'
import { type LoadOptions, newLoad, runLoad } from './load.ts'
import { type Run, showProgress, table, verdict } from './report.ts'
import type { Protection } from './worker.ts'

export interface DemoOptions {
  /** Where to run it. Default: a SQLite file, removed afterwards. */
  readonly databaseUrl?: string
  /** How long each of the three runs takes, about. Default 10. */
  readonly seconds?: number
  /** Worker processes. Default 4. */
  readonly workers?: number
}

const PROTECTIONS: readonly Protection[] = ['lease and guard', 'lease only', 'no lock']

/**
 * Shows that processes which write under leases with guards lose nothing, whatever happens to them, and what they lose
 * otherwise. Resolves with the exit code: 0, 1 if the guarded run failed, or 128 and more if a signal ended the demo.
 */
export async function demo({ databaseUrl, seconds = 10, workers = 4 }: DemoOptions = {}): Promise<number> {
  if (!(seconds > 0 && seconds <= 3600))
    throw new LockError('INVALID_ARGUMENT', '--seconds must be a number from 1 to 3600')
  if (!(Number.isInteger(workers) && workers >= 3 && workers <= 64)) {
    throw new LockError(
      'INVALID_ARGUMENT',
      '--workers must be 3 to 64: one is killed, one is stopped, and somebody has to take over',
    )
  }
  const interruption = onSignals()
  const place = databaseUrl === undefined ? await temporaryFile() : { url: databaseUrl, remove: async () => undefined }
  try {
    console.log(introduction(workers, databaseUrl === undefined))
    const db = await openLedger(place.url)
    try {
      if (databaseUrl === undefined) await sql`pragma journal_mode = wal`.execute(db)
      const runs: Run[] = []
      for (const protection of PROTECTIONS) {
        runs.push(await run(db, { databaseUrl: place.url, protection, workers, seconds, signal: interruption.signal }))
      }
      const failed = runs[0]!.audit.problems.length > 0
      console.log(`\n${table(runs)}\n`)
      for (const each of runs) console.log(verdict(each))
      console.log(failed ? FAILURE : CONCLUSION)
      return failed ? 1 : 0
    } finally {
      await db.destroy()
    }
  } catch (error) {
    if (error instanceof Interrupted) return error.exitCode
    throw error
  } finally {
    await place.remove()
    interruption.ignore()
  }
}

async function run(db: LedgerDatabase, options: LoadOptions): Promise<Run> {
  const { protection } = options
  const adapter = fromKysely(db)
  await using locks = createLocks(adapter, { tablePrefix: TABLE_PREFIX })
  await locks.migrate()
  try {
    await createLedger(db, adapter.engine)
    const load = newLoad()
    const endProgress = showProgress(protection, load)
    try {
      await runLoad(options, load)
    } finally {
      endProgress()
    }
    return { protection, load, audit: audit(await readBooks(db), load.acknowledged) }
  } finally {
    await dropLedger(db, adapter.engine)
  }
}

function introduction(workers: number, embedded: boolean): string {
  return `${workers} processes transfer money between accounts in ${embedded ? 'a SQLite file' : 'your database'}, working out new balances from
those they read a moment before, while again and again one of them is killed and another
is stopped for longer than its lease lasts. They do so under leases with guards, then under
leases only, then without locks, and after each part the accounts are compared with every
transfer that was acknowledged (a transfer is two writes, one to each account).
`
}

const CONCLUSION = `
A lease alone cannot hold back a process that stalls after it has looked. A guard makes the
commit itself depend on the lease, so a late write fails instead of overwriting newer ones:
README.md shows how to use it, and says what is guaranteed and what is not.`

const FAILURE = `
Writes under leases with guards must never be lost: this is a bug in rowlock. Please report it,
with what is printed above, and the name and version of the database.`

interface Place {
  readonly url: string
  remove(): Promise<void>
}

async function temporaryFile(): Promise<Place> {
  const folder = await mkdtemp(join(tmpdir(), 'rowlock-demo-'))
  return { url: `sqlite:${join(folder, 'demo.sqlite')}`, remove: () => rm(folder, { recursive: true, force: true }) }
}

class Interrupted extends Error {
  constructor(readonly exitCode: number) {
    super('the demo was interrupted')
  }
}

/** Turns Ctrl-C and the like into an abort, so that workers, tables and files are gone before the demo is. */
function onSignals(): { signal: AbortSignal; ignore(): void } {
  const controller = new AbortController()
  const abort = (signal: NodeJS.Signals) => controller.abort(new Interrupted(128 + constants.signals[signal]))
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, abort)
  return {
    signal: controller.signal,
    ignore() {
      for (const signal of signals) process.off(signal, abort)
    },
  }
}
