/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 * With better-sqlite3, Drizzle's transactions are synchronous, and so are guards: there is nothing to await.
 *
 *     node --import tsx examples/drizzle-sqlite.ts [file.sqlite]
 */
import { randomUUID } from 'node:crypto'
import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { fromDrizzle } from '../src/adapters/drizzle.ts'
import { createLocks, LockLostError } from '../src/index.ts'

const db = drizzle(process.argv[2] ?? ':memory:')
const locks = createLocks(fromDrizzle(db), { ttl: '30s' })
await locks.migrate()

const ledger = sqliteTable('ledger', { order: text('order_id'), entry: text('entry') })
db.run(sql`create table if not exists ledger (order_id text, entry text)`)

const order = randomUUID()

// This worker takes the order and stalls, and an operator takes it away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  db.transaction((tx) => {
    lease.guard(tx)
    tx.insert(ledger).values({ order, entry: 'paid' }).run()
    tx.insert(ledger).values({ order, entry: 'shipped' }).run()
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  db.transaction((tx) => {
    tx.insert(ledger).values({ order, entry: 'shipped again' }).run()
    zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = db.select().from(ledger).where(eq(ledger.order, order)).all()
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
db.$client.close()
