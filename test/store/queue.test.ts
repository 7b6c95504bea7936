import { describe } from 'vitest'
import { engines } from '../engines.ts'
import { queueSuite, textSuite } from './queue.ts'

/** One adapter of each engine, and one that is asynchronous on SQLite. */
const CONNECTORS = ['pg', 'mysql2', 'better-sqlite3', 'kysely-sqlite', 'memory']

for (const engine of engines()) {
  if (!CONNECTORS.includes(engine.connector)) continue
  describe(engine.name, { timeout: 60_000 }, () => {
    describe('queue', () => queueSuite(engine))
    describe('text', () => textSuite(engine))
  })
}
