/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     npx prisma generate --schema examples/prisma/schema.prisma
 *     node --import tsx examples/prisma.ts [file.sqlite]
 *
 * For PostgreSQL, or MySQL and MariaDB, name another provider in the schema, and another driver adapter here.
 */
import { randomUUID } from 'node:crypto'
import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import { fromPrisma } from '../src/adapters/prisma.ts'
import { createLocks, LockLostError } from '../src/index.ts'
import { PrismaClient } from './prisma/generated/client.ts'

// The timeout is how long the driver waits for the file: short, because it blocks the event loop, and rowlock waits itself.
const url = process.argv[2] ?? process.env.DATABASE_URL ?? ':memory:'
const prisma = new PrismaClient({ adapter: new PrismaBetterSqlite3({ url, timeout: 20 }) })
const locks = createLocks(fromPrisma(prisma), { ttl: '30s' })
await locks.migrate()
await prisma.$executeRaw`create table if not exists ledger (id integer primary key, "order" text, entry text)`

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await prisma.$transaction(async (tx) => {
  await locks.within(tx).acquire(`order:${order}`)
  await tx.ledger.create({ data: { order, entry: 'paid' } })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  prisma.$transaction(async (tx) => {
    await lease.guard(tx)
    await tx.ledger.create({ data: { order, entry: 'shipped' } })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await prisma.$transaction(async (tx) => {
    await tx.ledger.create({ data: { order, entry: 'shipped again' } })
    await zombie.guard(tx)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await prisma.ledger.findMany({ where: { order }, orderBy: { id: 'asc' } })
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await prisma.$disconnect()
