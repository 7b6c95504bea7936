import type { Store } from '../../src/protocol/store.ts'
import type { Connected } from '../adapters.ts'
import { connect } from '../connect.ts'
import type { OpenEngine, TestEngine } from '../engines.ts'
import { storeOn } from '../store/store-on.ts'
import { PEERS } from './commands.ts'
import { type LockTable, lockTable, type SqlEngine } from './lock-table.ts'

/** Ids that are advisory lock keys on PostgreSQL: of one who has a session, and of one whose session is gone. */
const LIVING = '4242424242424242'
const GONE = '2424242424242424'

/** A database as several processes use it. */
export interface Bench {
  readonly engine: SqlEngine
  /** There is one connection, so that nothing can be asked beside a transaction. */
  readonly single: boolean
  readonly peers: readonly Store<unknown>[]
  /** For transactions: on SQLite one that is open takes in all that happens on its connection. */
  readonly desk: Store<unknown>
  readonly table: LockTable
  readonly processes: readonly string[]
  /** Sessions that a lease may end with; null where there is none. On PostgreSQL also that of the process of this id. */
  readonly livingSession: string | null
  readonly goneSession: string | null
  begin(): Promise<DeskTransaction>
  close(): Promise<void>
}

export interface DeskTransaction {
  readonly tx: unknown
  end(commit: boolean): Promise<void>
}

export async function openBench(engine: TestEngine, database: OpenEngine): Promise<Bench> {
  const dialect = engine.engine as SqlEngine
  const single = !engine.shared
  const { connected } = database
  const connection = async () => (single ? connected : database.connect())
  const peers: Store<unknown>[] = []
  for (let index = 0; index < PEERS; index++) peers.push(storeOn((await connection()).adapter))
  const living = engine.server && (await openLivingSession(dialect, database.url))
  return {
    engine: dialect,
    single,
    peers,
    desk: storeOn(connected.adapter),
    table: lockTable(dialect, await connection()),
    processes: [LIVING, GONE, '3'],
    livingSession: living?.id ?? null,
    goneSession: dialect === 'sqlite' ? null : GONE,
    begin: () => begin(connected),
    close: async () => living?.close(),
  }
}

/** As the store's `openSession` would, but with an id that is known beforehand. */
async function openLivingSession(dialect: SqlEngine, url: string): Promise<{ id: string; close(): Promise<void> }> {
  const session = await connect(url)
  // Locks of MySQL's belong to the whole server, on which others may be running this, too.
  const id = dialect === 'postgres' ? LIVING : `living:${new URL(url).pathname}`
  await session.query(dialect === 'postgres' ? `select pg_advisory_lock(${id})` : `do get_lock('${id}', 0)`)
  return { id, close: () => session.close() }
}

/** A transaction that is open until it is told how to end. */
async function begin({ transaction }: Connected): Promise<DeskTransaction> {
  const undo = new Error('rolled back')
  let decide!: (commit: boolean) => void
  const decision = new Promise<boolean>((resolve) => {
    decide = resolve
  })
  let done!: Promise<void>
  const tx = await new Promise<unknown>((resolve, reject) => {
    done = transaction(async (handle) => {
      resolve(handle)
      if (!(await decision)) throw undo
    })
    done.catch(reject)
  })
  return {
    tx,
    async end(commit) {
      decide(commit)
      await done.catch((error: unknown) => {
        if (error !== undo) throw error
      })
    },
  }
}
