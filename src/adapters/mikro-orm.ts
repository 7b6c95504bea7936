import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  type Connection,
  connectionIn,
  type DedicatedConnection,
  noOwnConnection,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type SqlEngine,
  type Statement,
} from './adapter.ts'
import { dedicateKnex } from './knex-connection.ts'
import { toResult } from './mysql-result.ts'

/** The EntityManager of a transaction of MikroORM. */
export interface MikroOrmTransaction {
  isInTransaction(): boolean
  getTransactionContext(): unknown
}

interface MikroOrmConnection {
  execute(text: string, values: unknown[], method: 'all', transaction?: unknown): Promise<unknown>
  transactional<T>(use: (transaction: never) => Promise<T>): Promise<T>
}

/** A MikroORM for PostgreSQL, MySQL, MariaDB or SQLite. */
export interface MikroOrm {
  readonly em: {
    getConnection(type: 'write'): object
    getPlatform(): { formatQuery(text: string, values: readonly unknown[]): string }
  }
}

export interface MikroOrmOptions extends SessionOptions {
  /** Needed only for a driver that is not MikroORM's own, or whose class names were minified. */
  readonly engine?: SqlEngine
}

/**
 * PostgreSQL, MySQL, MariaDB or SQLite through MikroORM. Guards take the EntityManager that `em.transactional` gave to its
 * callback; within that callback `orm.em` is as good. On SQLite, set a busy_timeout of a few milliseconds in
 * `pool.afterCreate`: rowlock waits for the file itself, the driver would block the event loop for seconds.
 */
export function fromMikroOrm(orm: MikroOrm, options: MikroOrmOptions = {}): SqlAdapter<MikroOrmTransaction> {
  if (typeof orm?.em?.getConnection !== 'function' || typeof orm.em.getPlatform !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromMikroOrm takes a MikroORM of an SQL driver')
  }
  const engine = options.engine ?? engineOf(orm)
  const dedicate = options.sessions?.dedicate ?? (engine === 'sqlite' ? undefined : () => dedicateMikroOrm(engine, orm))
  const send = (statement: Statement, transaction?: unknown) => execute(engine, orm, statement, transaction)
  return asAdapter({
    engine,
    // Its pool for SQLite has one connection.
    single: engine === 'sqlite',
    transactionOf: contextOf,
    query: (statement) => send(statement),
    async queryIn(tx, statement) {
      const transaction = contextOf(tx)
      if (transaction === undefined || hasEnded(transaction)) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the EntityManager that em.transactional gave to your callback, while that transaction is open; not the MikroORM',
        )
      }
      return send(statement, transaction)
    },
    reserve: <T>(use: (connection: Connection) => Promise<T>) =>
      (orm.em.getConnection('write') as MikroOrmConnection).transactional((transaction) =>
        use(connectionIn((statement) => send(statement, transaction))),
      ),
    ...(dedicate && { dedicate }),
  })
}

/** Beside the pool of Knex that it has; of a replicated instance, to the primary. */
async function dedicateMikroOrm(engine: SqlEngine, { em }: MikroOrm): Promise<DedicatedConnection> {
  const { getKnex } = em.getConnection('write') as { getKnex?(): { readonly client: object } }
  if (getKnex === undefined) throw noOwnConnection('MikroORM')
  return dedicateKnex(engine, getKnex.call(em.getConnection('write')))
}

async function execute(
  engine: SqlEngine,
  { em }: MikroOrm,
  statement: Statement,
  transaction: unknown,
): Promise<Result> {
  const { text, values } = inPlaces(engine, statement)
  let answer: unknown
  try {
    answer = await (em.getConnection('write') as MikroOrmConnection).execute(text, values, 'all', transaction)
  } catch (error) {
    // Knex puts the statement before the driver's message.
    const prefix = `${em.getPlatform().formatQuery(text, values)} - `
    if (error instanceof Error && error.message.startsWith(prefix)) error.message = error.message.slice(prefix.length)
    throw error
  }
  if (Array.isArray(answer)) return { rows: answer }
  return engine === 'mysql' ? toResult([answer, undefined]) : { rows: [] }
}

/**
 * MikroORM writes values into the text, wherever it finds a question mark; it would write a bigint as a string, which
 * MySQL compares as a floating-point number.
 */
function inPlaces(engine: SqlEngine, { text, values }: Statement): { text: string; values: unknown[] } {
  if (values.length === 0) return { text, values: [] }
  const placed: unknown[] = []
  let next = 0
  const marked = text.replace(engine === 'postgres' ? /\?|\$(\d+)/g : /\?/g, (match, index?: string) => {
    if (engine === 'postgres' && match === '?') return '\\?'
    const value = values[engine === 'postgres' ? Number(index) - 1 : next++]
    if (typeof value === 'bigint' && engine !== 'postgres') return `${value}`
    placed.push(value)
    return '?'
  })
  return { text: marked, values: placed }
}

/** Not the EntityManager, of which there may be several. */
function contextOf(tx: MikroOrmTransaction): object | undefined {
  return typeof tx?.getTransactionContext === 'function'
    ? (tx.getTransactionContext() as object | undefined)
    : undefined
}

function hasEnded(transaction: unknown): boolean {
  return (transaction as { isCompleted?(): boolean }).isCompleted?.() === true
}

function engineOf(orm: MikroOrm): SqlEngine {
  const { name } = orm.em.getPlatform().constructor
  if (/postgres/i.test(name)) return 'postgres'
  if (/mysql|maria/i.test(name)) return 'mysql'
  if (/sqlite/i.test(name)) return 'sqlite'
  throw new LockError(
    'INVALID_ARGUMENT',
    `unknown MikroORM platform (${name}): say fromMikroOrm(orm, { engine: 'postgres' | 'mysql' | 'sqlite' })`,
  )
}
