/**
 * An order is locked and its ledger written, in one commit; and a worker that comes back too late is refused.
 *
 *     node --import tsx examples/sequelize.ts [postgres://... | mysql://... | file.sqlite]
 */
import { randomUUID } from 'node:crypto'
import { DataTypes, type InferAttributes, type InferCreationAttributes, type Model, Sequelize } from 'sequelize'
import { fromSequelize } from '../src/adapters/sequelize.ts'
import { createLocks, LockLostError } from '../src/index.ts'

interface LedgerEntry extends Model<InferAttributes<LedgerEntry>, InferCreationAttributes<LedgerEntry>> {
  order: string
  entry: string
}

const sequelize = connect(process.argv[2] ?? process.env.DATABASE_URL ?? ':memory:')
const Ledger = sequelize.define<LedgerEntry>('ledger', { order: DataTypes.STRING, entry: DataTypes.STRING })
const locks = createLocks(fromSequelize(sequelize), { ttl: '30s' })
await locks.migrate()
await Ledger.sync()

const order = randomUUID()

// The lock lasts as long as the transaction: nobody else has the order until its payment is there to be seen.
await sequelize.transaction(async (transaction) => {
  await locks.within(transaction).acquire(`order:${order}`)
  await Ledger.create({ order, entry: 'paid' }, { transaction })
})

// A lease lasts longer than one transaction. This worker stalls, and an operator takes the order away from it ...
const zombie = await locks.acquire(`order:${order}`)
await locks.forceRelease(`order:${order}`)

// ... so that another one can ship it.
await locks.run(`order:${order}`, {}, (lease) =>
  sequelize.transaction(async (transaction) => {
    await lease.guard(transaction)
    await Ledger.create({ order, entry: 'shipped' }, { transaction })
  }),
)

// The first worker wakes up and believes that it still has the order. Its guard knows better, and nothing is committed.
try {
  await sequelize.transaction(async (transaction) => {
    await Ledger.create({ order, entry: 'shipped again' }, { transaction })
    await zombie.guard(transaction)
  })
} catch (error) {
  if (!(error instanceof LockLostError)) throw error
  console.log(error.message)
}

const entries = await Ledger.findAll({ where: { order }, order: ['createdAt', 'id'] })
console.log(`ledger: ${entries.map(({ entry }) => entry).join(', ')}`)

await locks.close()
await sequelize.close()

function connect(url: string): Sequelize {
  if (/^(postgres|mysql)/.test(url)) return new Sequelize(url, { logging: false })
  return new Sequelize({ dialect: 'sqlite', storage: url, logging: false })
}
