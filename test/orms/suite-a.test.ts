import { ormEngines } from './connectors-a.ts'
import { ormSuite } from './suite.ts'

for (const engine of ormEngines()) ormSuite(engine)
