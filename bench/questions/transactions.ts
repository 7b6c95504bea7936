import { CompiledQuery, Kysely, PostgresDialect } from 'kysely'
import type { Adapter, Locks } from '../../src/index.ts'
import { dotChart, panelsOf } from '../chart.ts'
import { openMysqlPool, openPgPool, type Rows } from '../drivers.ts'
import { inRounds, latencies, type Metrics, now, type Question } from '../harness.ts'
import { createLocks, fromKysely, fromMysql2, fromPg, isTransactionAborted } from '../library.ts'
import { type Engine, freshName, kindOf, type Target } from '../servers.ts'
import { recordStatements } from '../statements.ts'

const LEVELS = ['read committed', 'repeatable read', 'serializable'] as const
type Level = (typeof LEVELS)[number]
type Through = 'pg' | 'Kysely' | 'mysql2'
type Sql = (text: string) => Promise<Rows>

/** A pool, as an application has it. */
interface Client {
  readonly locks: Locks<unknown>
  /** Rolls back if `body` rejects. */
  transaction(level: Level, body: (tx: unknown, sql: Sql) => Promise<unknown>): Promise<void>
  close(): Promise<unknown>
}

export const ADVISORY = 'pg_advisory_xact_lock'
/** At the stricter levels such a lock reads what was before it: no floor for what has to be right. */
export const ADVISORY_COMMITTED = 'pg_advisory_xact_lock, read committed'
export const FOR_UPDATE = 'SELECT FOR UPDATE'
/** A lock that is found in its row, has an owner and a token, and is free after a crash has to be written there. */
export const ROW_WRITTEN = 'UPDATE of one row'
export const ISOLATION_KNOWN = 'rowlock, told the isolation level'

const POOL = 10
const IDLE = 200

export const manySetting = (transactions: number, level: Level, through: Through) =>
  `${transactions} at once, pool of ${POOL}, ${level}, ${through}`
export const freeSetting = (level: Level, through: Through) => `one, the lock is free, ${level}, ${through}`
export const waitingSetting = (level: Level, through: Through) => `${IDLE} wait, ${level}, ${through}`

export const transactions: Question = {
  name: 'transactions',
  title: "Locks in the caller's transaction",
  method:
    'Many transactions of one process want one lock at once: within(tx).acquire, or the native lock, is the first statement of each; then it reads a row, adds one, and commits. ms is from ' +
    'the first to the last commit; what was aborted is not repeated. At REPEATABLE READ and SERIALIZABLE of PostgreSQL the floor is the advisory lock at READ COMMITTED, since at those levels ' +
    'it reads a snapshot from before its wait. For a lock that is free, p50 is of the lock alone, between begin and commit; beside it an UPDATE of one row, since a lock that ' +
    'is a row has to be written. Of those that wait behind a transaction that goes on, all have a connection each, and the statements that their process sends are counted from the ' +
    'time on when their messages are as long as they get.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'postgres15', 'mysql', 'mariadb'] },
  compared: ['ms', 'p50 ms', 'statements per s'],
  floors: [ADVISORY, ADVISORY_COMMITTED, FOR_UPDATE],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const plan = bench.pick({
      quick: { rounds: 3, free: 100, settleMs: 750, idleMs: 1500 },
      full: { rounds: 5, free: 400, settleMs: 20_000, idleMs: 20_000 },
    })
    await prepare(target)
    const own = throughOf(engine)
    const many: [transactions: number, level: Level, through: Through][] =
      kindOf(engine) === 'postgres'
        ? [
            ...own.map((through): [number, Level, Through] => [200, 'read committed', through]),
            [64, 'repeatable read', 'pg'],
            [64, 'serializable', 'pg'],
          ]
        : [
            [200, 'read committed', 'mysql2'],
            [200, 'repeatable read', 'mysql2'],
          ]
    for (const [count, level, through] of many) {
      const client = open(target, through, POOL)
      const contenders = contendersOf(engine, level, client.locks)
      const measured = await inRounds(plan.rounds, Object.keys(contenders), (name) =>
        together(client, count, contenders[name]!),
      )
      bench.record(transactions.name, engine, manySetting(count, level, through), measured)
      await client.close()
    }
    for (const through of own) {
      for (const level of levelsOf(engine)) {
        const client = open(target, through, POOL)
        const contenders = { ...contendersOf(engine, level, client.locks), ...ofAFreeLock(engine, level, client.locks) }
        for (const each of Object.values(contenders)) await alone(client, plan.free, each)
        const measured = await inRounds(plan.rounds, Object.keys(contenders), (name) =>
          alone(client, plan.free, contenders[name]!),
        )
        bench.record(transactions.name, engine, freeSetting(level, through), measured)
        await client.close()
      }
    }
    for (const level of levelsOf(engine)) {
      const measured = await waiting(target, own[0]!, level, plan)
      bench.record(transactions.name, engine, waitingSetting(level, own[0]!), new Map([['rowlock', [measured]]]))
    }
  },
  charts: (figures) => [
    dotChart(
      'transactions',
      "Locks in the caller's transaction: ms for all of them (log scale)",
      panelsOf(figures, 'ms'),
    ),
  ],
}

export function throughOf(engine: Engine): readonly Through[] {
  return kindOf(engine) === 'postgres' ? ['pg', 'Kysely'] : ['mysql2']
}

function levelsOf(engine: Engine): readonly Level[] {
  return kindOf(engine) === 'postgres' ? LEVELS : ['read committed', 'repeatable read']
}

interface TransactionLock {
  readonly level: Level
  take(tx: unknown, sql: Sql): Promise<unknown>
}

function contendersOf(engine: Engine, level: Level, locks: Locks<unknown>): Record<string, TransactionLock> {
  const name = freshName()
  const rowlock = { level, take: (tx: unknown) => locks.within(tx).acquire(name, { wait: Number.POSITIVE_INFINITY }) }
  if (kindOf(engine) === 'mysql') {
    const text = `select token from bench_locks where name = 'row' for update`
    return { [FOR_UPDATE]: { level, take: (_tx, sql) => sql(text) }, rowlock }
  }
  const advisory = { level: LEVELS[0], take: (_tx: unknown, sql: Sql) => sql('select pg_advisory_xact_lock(42)') }
  return { [level === advisory.level ? ADVISORY : ADVISORY_COMMITTED]: advisory, rowlock }
}

/** What else is of interest where nobody is in the way. */
function ofAFreeLock(engine: Engine, level: Level, locks: Locks<unknown>): Record<string, TransactionLock> {
  const name = freshName()
  const update = `update bench_locks set token = token + 1 where name = 'row'`
  const written = { level, take: (_tx: unknown, sql: Sql) => sql(update) }
  if (kindOf(engine) === 'mysql' || level !== 'read committed') return { [ROW_WRITTEN]: written }
  const take = (tx: unknown) => locks.within(tx, { isolation: level }).acquire(name)
  return { [ROW_WRITTEN]: written, [ISOLATION_KNOWN]: { level, take } }
}

async function prepare(target: Target): Promise<void> {
  const client = open(target, throughOf(target.engine)[0]!, 1)
  await client.transaction('read committed', async (_tx, sql) => {
    const expiry = kindOf(target.engine) === 'postgres' ? 'now()' : 0
    await sql('create table bench_account (id integer primary key, balance integer not null)')
    await sql('insert into bench_account values (1, 0)')
    await sql(`insert into bench_locks values ('row', null, 1, ${expiry})`)
  })
  await client.close()
}

/** All of them at once: they read and write one row, and the sum has to be right. */
async function together(client: Client, count: number, { level, take }: TransactionLock): Promise<Metrics> {
  let aborted = 0
  await client.transaction('read committed', (_tx, sql) => sql('update bench_account set balance = 0 where id = 1'))
  const startedAt = now()
  const one = async () => {
    try {
      await client.transaction(level, async (tx, sql) => {
        await take(tx, sql)
        const [row] = await sql('select balance from bench_account where id = 1')
        await sql(`update bench_account set balance = ${Number(row?.balance) + 1} where id = 1`)
      })
    } catch (error) {
      if (!isTransactionAborted(error)) throw error
      aborted++
    }
  }
  await Promise.all(Array.from({ length: count }, one))
  const ms = now() - startedAt
  await client.transaction('read committed', async (_tx, sql) => {
    const [row] = await sql('select balance from bench_account where id = 1')
    if (Number(row?.balance) !== count - aborted) {
      throw new Error(`${count - aborted} transactions added one each, and the sum is ${row?.balance}`)
    }
  })
  return { ms, 'aborted %': (100 * aborted) / count }
}

/** How long the lock takes, and how many statements, in one transaction after the other. */
async function alone(client: Client, times: number, { level, take }: TransactionLock): Promise<Metrics> {
  const took: number[] = []
  let statements = 0
  for (let turn = 0; turn < times; turn++) {
    await client.transaction(level, async (tx, sql) => {
      const stop = recordStatements()
      const startedAt = now()
      await take(tx, sql)
      took.push(now() - startedAt)
      statements += stop().length
      await sql('update bench_account set balance = balance + 1 where id = 1')
    })
  }
  return { ...latencies(took), 'round trips': statements / times }
}

/** What a process asks of the database whose transactions all wait for one that goes on. */
async function waiting(
  target: Target,
  through: Through,
  level: Level,
  { settleMs, idleMs }: { readonly settleMs: number; readonly idleMs: number },
): Promise<Metrics> {
  const holder = open(target, through, 1)
  // A few more, for rowlock itself.
  const client = open(target, through, IDLE + 5)
  const name = freshName()
  let perSecond = Number.NaN
  let waiters: Promise<unknown> | undefined
  const wait = Number.POSITIVE_INFINITY
  await holder.transaction(level, async (tx) => {
    await holder.locks.within(tx).acquire(name)
    let begun = 0
    const each = () =>
      client.transaction(level, async (waiter) => {
        begun++
        await client.locks.within(waiter).acquire(name, { wait })
      })
    waiters = Promise.allSettled(Array.from({ length: IDLE }, each))
    while (begun < IDLE) await pause(10)
    await pause(settleMs)
    const stop = recordStatements()
    await pause(idleMs)
    perSecond = stop().length / (idleMs / 1000)
  })
  await waiters
  await client.close()
  await holder.close()
  return { 'statements per s': perSecond }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

function open({ url }: Target, through: Through, connections: number): Client {
  switch (through) {
    case 'pg': {
      const pool = openPgPool(url, connections)
      const transaction: Client['transaction'] = async (level, body) => {
        const client = await pool.connect()
        const sql: Sql = async (text) => (await client.query(text)).rows
        try {
          await bracketed(sql, `begin isolation level ${level}`, () => body(client, sql))
        } finally {
          client.release()
        }
      }
      return withLocks(fromPg(pool) as Adapter<unknown>, transaction, () => pool.end())
    }
    case 'Kysely': {
      const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: openPgPool(url, connections) }) })
      const transaction: Client['transaction'] = (level, body) =>
        db
          .transaction()
          .setIsolationLevel(level)
          .execute(async (tx) => {
            await body(tx, async (text) => (await tx.executeQuery(CompiledQuery.raw(text))).rows as Rows)
          })
      return withLocks(fromKysely(db) as Adapter<unknown>, transaction, () => db.destroy())
    }
    case 'mysql2': {
      const pool = openMysqlPool(url, connections)
      const transaction: Client['transaction'] = async (level, body) => {
        const connection = await pool.getConnection()
        const sql: Sql = async (text) => {
          const [rows] = await connection.query(text)
          return Array.isArray(rows) ? (rows as Rows) : []
        }
        try {
          await sql(`set transaction isolation level ${level}`)
          await bracketed(sql, 'start transaction', () => body(connection, sql))
        } finally {
          connection.release()
        }
      }
      return withLocks(fromMysql2(pool) as Adapter<unknown>, transaction, () => pool.end())
    }
  }
}

function withLocks(adapter: Adapter<unknown>, transaction: Client['transaction'], end: () => Promise<unknown>): Client {
  const locks = createLocks(adapter)
  return {
    locks,
    transaction,
    async close() {
      await locks.close()
      await end()
    },
  }
}

async function bracketed(sql: Sql, begin: string, body: () => Promise<unknown>): Promise<void> {
  await sql(begin)
  try {
    await body()
    await sql('commit')
  } catch (error) {
    await sql('rollback')
    throw error
  }
}
