import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { memoryStore } from '../../src/engines/memory/store.ts'
import type { Naming } from '../../src/engines/migrations.ts'
import { mysqlStore } from '../../src/engines/mysql/store.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { sqliteStore } from '../../src/engines/sqlite/store.ts'
import type { Adapter } from '../../src/index.ts'
import type { Store } from '../../src/protocol/store.ts'

const onPool = (adapter: SqlAdapter<unknown>) =>
  new OwnConnection(adapter as SqlAdapter<never>, { enabled: true, timeoutMs: 5000 })

/** The store of an adapter's engine, without a process around it. */
export function storeOn(adapter: Adapter<unknown>, naming: Naming = {}): Store<unknown> {
  switch (adapter.engine) {
    case 'postgres':
      return postgresStore(adapter, naming, onPool(adapter))
    case 'mysql':
      return mysqlStore(adapter, naming, onPool(adapter))
    case 'sqlite':
      return sqliteStore(adapter, naming)
    case 'memory':
      return memoryStore(adapter.database) as Store<unknown>
  }
}

/** One that says nothing of checkpoints, which marks.test.ts and the contract are about: so answers can be compared as a whole. */
export function withoutCheckpoints(store: Store<unknown>): Store<unknown> {
  const { listen } = store
  return {
    ...store,
    acquire: async (attempts, beside) => (await store.acquire(attempts, beside)).map(without),
    promote: async (names, process) =>
      (await store.promote(names, process)).map((each) => ({ ...each, grants: each.grants.map(without) })),
    release: async (holds, process) =>
      (await store.release(holds, process)).map((each) => ({ ...each, grants: each.grants.map(without) })),
    withdraw: async (asked) =>
      (await store.withdraw(asked)).map((each) => ({ ...each, grants: each.grants.map(without) })),
    poll: async (names) => (await store.poll(names)).map((view) => ({ ...view, holders: view.holders.map(without) })),
    ...(listen && {
      listen: (process, onGrant, onLost) => listen.call(store, process, (grant) => onGrant(without(grant)), onLost),
    }),
  }
}

function without<Told extends object>(told: Told): Told {
  const { checkpointed: _, ...rest } = told as Told & { readonly checkpointed?: boolean }
  return rest as unknown as Told
}
