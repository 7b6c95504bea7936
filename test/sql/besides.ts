import { asAdapter, type DedicatedConnection, type SqlAdapter, type Statement } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { migrations } from '../../src/engines/migrations.ts'
import { mysqlStore } from '../../src/engines/mysql/store.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { sqliteStore } from '../../src/engines/sqlite/store.ts'
import type { Store } from '../../src/protocol/store.ts'
import { STATEMENTS } from './statements.ts'

const ENGINES = {
  postgres: (adapter: SqlAdapter<object>, own: OwnConnection) => postgresStore(adapter, {}, own),
  mysql: (adapter: SqlAdapter<object>, own: OwnConnection) => mysqlStore(adapter, {}, own),
  sqlite: (adapter: SqlAdapter<object>) => sqliteStore(adapter, {}),
}
export type Engine = keyof typeof ENGINES

const hold = { name: 'name', owner: 'owner', token: 1n }

/**
 * What else the engines send: texts that are written where they are sent, for want of anything to compile. Here on a connection
 * that has the same answer to all of them. Not among them is what only some answers lead to: the creation of a schema, and
 * MySQL's question for `innodb_lock_wait_timeout`.
 */
export const BESIDES = {
  postgres: {
    assess: (store) => store.assess!(),
    openSession: async (store) => {
      const session = await store.openSession(() => undefined)
      await session.ping()
      await session.close()
    },
    listen: async (store) => {
      const listening = await store.listen!(
        '7',
        () => undefined,
        () => undefined,
      )
      await listening.close()
    },
    readsSnapshot: (store) => store.readsSnapshot!({}),
    guardedQuery: (store) => store.guardedQuery!({}, hold, { text: 'update ledger set value = $1', values: [1] }),
    migrate: (store) => store.migrate(),
  },
  mysql: {
    assess: (store) => store.assess!(),
    openSession: async (store) => {
      const session = await store.openSession(() => undefined)
      await session.ping()
      await session.close()
    },
    releaseIn: (store) => store.releaseIn({}, hold),
    migrate: (store) => store.migrate(),
  },
  sqlite: {
    assess: (store) => store.assess!(),
    assertOpen: async (store) => store.assertOpen!({}),
    migrate: (store) => store.migrate(),
  },
} as const satisfies Record<Engine, Record<string, (store: Store<object>) => Promise<unknown>>>

export type Occasion<Of extends Engine> = keyof (typeof BESIDES)[Of] & string

/** As a row of whatever was asked for. */
const ANSWER = {
  ...{ yes: true, no: false, i: 7, remaining: 0.5, token: '7', backend: 7, locked: 1, now: 0, found: false },
  ...{ transaction_isolation: 'read committed', Variable_name: 'version', Value: '9.7.0', name: 'none' },
}

/** The texts that are sent on an occasion, but for those that are compiled, and for the migrations themselves. */
export async function sentOn(engine: Engine, occasion: (store: Store<object>) => Promise<unknown>): Promise<string[]> {
  const sent: string[] = []
  const query = async ({ text }: Statement) => {
    sent.push(text)
    return { rows: [ANSWER], insertId: 7 }
  }
  const connection: DedicatedConnection = {
    backendId: 7,
    query,
    onNotification: () => undefined,
    onLost: () => undefined,
    close: async () => undefined,
  }
  const adapter: SqlAdapter<object> = asAdapter({
    engine,
    synchronous: engine === 'sqlite',
    query,
    queryIn: (_: object, statement: Statement) => query(statement),
    reserve: <T>(use: (connection: DedicatedConnection) => Promise<T>) => use(connection),
    dedicate: async () => connection,
  })
  const own = new OwnConnection(adapter as SqlAdapter<never>, { enabled: true, timeoutMs: 1000 })
  await occasion(ENGINES[engine](adapter, own))
  await own.close()
  const known = new Set([
    ...Object.values(STATEMENTS[engine]).map(({ text }) => text),
    ...migrations(engine, {}).flatMap(({ statements }) => statements),
  ])
  return sent.filter((text) => !known.has(text))
}
