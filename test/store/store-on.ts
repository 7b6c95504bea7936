import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { memoryStore } from '../../src/engines/memory/store.ts'
import { mysqlStore } from '../../src/engines/mysql/store.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { sqliteStore } from '../../src/engines/sqlite/store.ts'
import type { Adapter } from '../../src/index.ts'
import type { Store } from '../../src/protocol/store.ts'

const onPool = (adapter: SqlAdapter<unknown>) =>
  new OwnConnection(adapter as SqlAdapter<never>, { enabled: true, timeoutMs: 5000 })

/** The store of an adapter's engine, without a process around it. */
export function storeOn(adapter: Adapter<unknown>): Store<unknown> {
  switch (adapter.engine) {
    case 'postgres':
      return postgresStore(adapter, {}, onPool(adapter))
    case 'mysql':
      return mysqlStore(adapter, {}, onPool(adapter))
    case 'sqlite':
      return sqliteStore(adapter, {})
    case 'memory':
      return memoryStore(adapter.database) as Store<unknown>
  }
}
