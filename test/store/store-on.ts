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
