import type { Database } from 'better-sqlite3'
import { describe } from 'vitest'
import { engines } from '../engines.ts'
import { onEngine } from './harness.ts'
import { synchronousSuite } from './synchronous.ts'

describe('a synchronous transaction of better-sqlite3', () => {
  const engine = engines().find(({ connector }) => connector === 'better-sqlite3')!
  onEngine(engine, (subject) =>
    synchronousSuite(subject, (database, body) => (database as Database).transaction(body).immediate()),
  )
})
